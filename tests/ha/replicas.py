"""Two servers over one cluster, each a process that can be killed and started again, and what they say of their health.

They trust one issuer, so that a token is good at both.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.core.permissions import SCOPES
from tests.auth.forge import AUDIENCE, ISSUER, claims, jwks, key_pair
from tests.ha.cluster import DATABASE, OWNER, SERVER, Cluster
from tests.ha.nodes import DEADLINE_SECONDS
from tests.processes import Server, run

OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"
REPLICAS = 2
TOKEN_SECONDS = 3600

# A client that lost its server looks for it again at once, and not after a pause that grows.
PROMPT: list[tuple[str, Any]] = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.use_local_subchannel_pool", 1)]


class Told(NamedTuple):
    """What a server's health service said, and when."""

    at: float
    serving: bool


class Replica:
    """One server, on an address that it keeps."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        self._folder = folder
        self._arguments = arguments
        self._server = Server(folder, *arguments)
        self.address = self._server.address
        self._changed = threading.Condition()
        self._told: list[Told] = []
        self._stopped = False
        self._channel = self.channel()
        threading.Thread(target=self._watch, daemon=True).start()

    def channel(self) -> grpc.Channel:
        """A connection of its own to this server, whichever process that is."""
        return grpc.insecure_channel(self.address, options=PROMPT)

    def kill(self) -> None:
        """SIGKILL the server."""
        self._server.kill()

    def start(self) -> None:
        """Start it again, at the same address."""
        self._server = Server(self._folder, *self._arguments, listen=self.address)

    def stop(self) -> None:
        """Stop it, which it must do in order."""
        self._stopped = True
        self._server.stop()
        self._channel.close()

    def await_health(self, serving: bool, since: float) -> float:
        """Wait until the server says so, and return when it first did after that instant."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._first(serving, since), DEADLINE_SECONDS)
            assert found, f"{self.address} does not say serving={serving}: {self._told}"
            return found

    def _first(self, serving: bool, since: float) -> float | None:
        return next((told.at for told in self._told if told.at > since and told.serving == serving), None)

    def _watch(self) -> None:
        """Follow `Watch`, again and again where the connection breaks."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        while not self._stopped:
            with contextlib.suppress(grpc.RpcError, ValueError):
                for answer in stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
                    with self._changed:
                        self._told.append(
                            Told(time.monotonic(), answer.status == health_pb2.HealthCheckResponse.SERVING)
                        )
                        self._changed.notify_all()


@contextlib.contextmanager
def serving(cluster: Cluster) -> Iterator[tuple[list[Replica], tuple[tuple[str, str], ...]]]:
    """Migrate the cluster's database, start the servers, and give them with the metadata of an administrator."""
    migrated = run("migrate", "--database-url", cluster.url(OWNER))
    assert migrated.returncode == 0, migrated
    (grants,) = re.findall(r"```sql\n(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    with psycopg.connect(cluster.primary().url(OWNER, DATABASE)) as owner:
        owner.execute(grants.encode())
    issuer = key_pair()
    keys = cluster.folder / "jwks.json"
    keys.write_bytes(jwks(issuer))
    arguments: list[str | Path] = ["--database-url", cluster.url(SERVER), "--admin", "user:admin"]
    arguments += ["--jwks-file", keys, "--issuer", ISSUER, "--audience", AUDIENCE]
    arguments += ["--files-url", (cluster.folder / "files").as_uri()]
    token = issuer.sign(claims(sub="admin", exp=int(time.time()) + TOKEN_SECONDS, scope=" ".join(SCOPES)))
    replicas = [Replica(cluster.folder / f"replica-{number}", *arguments) for number in range(1, REPLICAS + 1)]
    yield replicas, (("authorization", f"Bearer {token}"),)
    for replica in replicas:
        replica.stop()
