"""An object store for tests: a server of its own process that speaks the protocol of S3, on a loopback port."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import boto3

BUCKET = "models"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}

SERVE = """
import threading
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
print("listening on", server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""


@dataclass(frozen=True)
class ObjectStore:
    """A running server; in its environment, `s3://models` is a bucket of it."""

    environment: dict[str, str]
    process: subprocess.Popen[str]
    port: int

    def freeze(self) -> None:
        """Let it answer no more, but keep its connections."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run a server with an empty bucket."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("listening on "))
            port = int(line.split()[-1])
            address = f"http://127.0.0.1:{port}"
            client = boto3.client(
                "s3",
                endpoint_url=address,
                region_name="us-east-1",
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
            client.create_bucket(Bucket=BUCKET)
            yield ObjectStore(CREDENTIALS | {"AWS_ENDPOINT_URL": address}, process, port)
        finally:
            process.kill()


# What is said about an object fits into it many times; a part of an object does not.
BYTES_BEFORE_STALL = 2**18


class StalledStore:
    """The same store, reached through a proxy that takes the beginning of each part, and no more before `go_on`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._goes_on = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.environment = store.environment | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        }
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> StalledStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._goes_on.set()
        self._listener.close()

    def go_on(self) -> None:
        """Take everything from now on."""
        self._goes_on.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                store = socket.create_connection(("127.0.0.1", self._store.port))
                for source, target, bound in ((client, store, BYTES_BEFORE_STALL), (store, client, None)):
                    threading.Thread(target=self._pass, args=(source, target, bound), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, bound: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(2**16):
                passed += len(data)
                if bound is not None and passed > bound:
                    self._goes_on.wait()
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
