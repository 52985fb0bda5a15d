"""Envoy, as deploy/envoy/envoy.yaml configures it, on free ports of loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import yaml

from tests.interop.conftest import ROOT
from tests.postgres import unused_port
from tests.processes import DEADLINE_SECONDS

ENVOY = Path(sys.executable).with_name("envoy")
FILE = ROOT / "deploy/envoy/envoy.yaml"
# The client does nothing of what Envoy is to do.
PLAIN = [("grpc.service_config", "{}"), ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]

Address = tuple[str, int]
Change = Callable[["Configuration"], None]


class Configuration:
    """The file as Envoy reads it, and the few places in it where tests put other figures."""

    def __init__(self) -> None:
        # What the file says once and refers to is one object here, too, and is written so again.
        self.root: dict[str, Any] = yaml.safe_load(FILE.read_text())

    def listener(self, name: str) -> dict[str, Any]:
        """The listener of that name, `grpc` or `http`."""
        return _named(self.root["static_resources"]["listeners"], name)

    def http(self, listener: str) -> dict[str, Any]:
        """The options of a listener's HTTP connection manager."""
        [chain] = self.listener(listener)["filter_chains"]
        [manager] = chain["filters"]
        return manager["typed_config"]

    def routes(self, listener: str) -> list[dict[str, Any]]:
        """What a listener does with the requests that it passes on."""
        [host] = self.http(listener)["route_config"]["virtual_hosts"]
        return [each["route"] for each in host["routes"] if "route" in each]

    def serve(self, cluster: str, replicas: Sequence[Address]) -> None:
        """Put in the addresses of the replicas, as many as there are in the file."""
        found = _named(self.root["static_resources"]["clusters"], cluster)
        [endpoints] = found["load_assignment"]["endpoints"]
        assert len(endpoints["lb_endpoints"]) == len(replicas)
        endpoints["lb_endpoints"] = [{"endpoint": {"address": _socket_address(each)}} for each in replicas]

    def limit_calls(self, calls: int) -> None:
        """Let each address make so many calls an hour."""
        bucket = {"max_tokens": calls, "tokens_per_fill": 1, "fill_interval": "3600s"}
        for listener in ("grpc", "http"):
            limit = self.http(listener)["http_filters"][0]["typed_config"]
            [descriptor] = limit["descriptors"]
            descriptor["token_bucket"] = limit["token_bucket"] = bucket


def shorten(options: dict[str, Any], *names: str) -> None:
    """Set times that the file has to a second."""
    for name in names:
        assert float(options[name].removesuffix("s")) > 1
        options[name] = "1s"


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [found] = [each for each in entries if each["name"] == name]
    return found


def _socket_address(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


class Proxy(NamedTuple):
    """Where Envoy takes calls, and where it tells what it counted."""

    grpc: Address
    http: Address
    admin: Address

    @property
    def target(self) -> str:
        """The address for clients of gRPC."""
        return f"{self.grpc[0]}:{self.grpc[1]}"


@contextmanager
def envoy(
    folder: Path, replicas: Sequence[Address], http_replicas: Sequence[Address] = (), change: Change | None = None
) -> Iterator[Proxy]:
    """Run Envoy as the file says, but for the addresses and the change; yields once it takes connections."""
    config = Configuration()
    proxy = Proxy(*(("127.0.0.1", unused_port()) for _ in Proxy._fields))
    for name in ("grpc", "http"):
        config.listener(name)["address"] = _socket_address(getattr(proxy, name))
    config.root["admin"] = {"address": _socket_address(proxy.admin)}
    config.serve("registry", replicas)
    config.serve("registry_http", http_replicas or [("127.0.0.1", unused_port()) for _ in replicas])
    if change:
        change(config)
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(config.root))
    with (folder / "envoy.log").open("wb") as log:
        command = [ENVOY, "--config-path", file, "--use-dynamic-base-id", "--log-level", "warn"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with grpc.insecure_channel(proxy.target, PLAIN) as channel:
            grpc.channel_ready_future(channel).result(DEADLINE_SECONDS)
        yield proxy
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


@contextmanager
def from_another_address(to: Address, source: str) -> Iterator[str]:
    """A port that passes connections on from another address of loopback; yields its own address."""
    open_sockets: list[socket.socket] = []

    def pass_on(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(2**16):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(to, source_address=(source, 0))
                open_sockets.extend([client, server])
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=pass_on, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for each in open_sockets:
                each.close()
