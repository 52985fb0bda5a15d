"""The public SDK repeats a POST by itself after 429 and 503: no promotion is ever applied twice."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import httpx
import pytest
from foundry_sdk import Config, FoundryClient, PalantirException, UserTokenAuth

from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.storage.sql.session import WAIT_SECONDS
from tests.conftest import NewDatabase
from tests.processes import Server

CLIENTS = 4
ENDS = 2
ACKNOWLEDGED_BETWEEN_ENDS = 12
DEADLINE_SECONDS = 180


def sdk(server: Server) -> FoundryClient:
    address = server.url.removeprefix("http://")
    return FoundryClient(auth=UserTokenAuth(server.token()), hostname=address, config=Config(scheme="http"))


def prepared(server: Server) -> tuple[ModelVersion, Model]:
    """A version, and a model to promote it into."""
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        return admin.create_version(admin.create_model("source")), admin.create_model("target")


def version_counts(server: Server, model: Model) -> dict[str, int]:
    """How many versions each branch of a model has."""
    found: dict[str, int] = {}
    token = None
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        while True:
            page = admin("ListBranches", model_rid=model.rid, page_size=1000, page_token=token)
            found |= {branch.name: branch.version_count for branch in page.branches}
            if not page.HasField("next_page_token"):
                return found
            token = page.next_page_token


class Clients:
    """Clients that promote on and on, each time into a branch of its own, so that a second time would show."""

    def __init__(self, client: FoundryClient, source: ModelVersion, target: Model):
        self.acknowledged: list[str] = []
        self.failures: list[Exception] = []
        self._client, self._source, self._target = client, source, target
        self._enough = threading.Semaphore(0)
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._running = [self._pool.submit(self._promote_on_and_on, number) for number in range(CLIENTS)]

    def wait_for(self, promotions: int) -> None:
        """Return when so many more promotions have been acknowledged."""
        for _ in range(promotions):
            assert self._enough.acquire(timeout=DEADLINE_SECONDS), self.failures[-3:]

    def stop(self) -> None:
        self._stopping.set()
        for client in self._running:
            client.result()
        self._pool.shutdown()

    def _promote_on_and_on(self, client: int) -> None:
        for number in itertools.count():
            if self._stopping.is_set():
                return
            branch = f"{client}-{number}"
            try:
                self._client.models.Model.promote_version(
                    self._target.rid, source_model_version_rid=self._source.rid, branch=branch, preview=True
                )
            except (PalantirException, httpx.HTTPError) as error:
                self.failures.append(error)
                # Until the next server is there.
                self._stopping.wait(0.05)
            else:
                self.acknowledged.append(branch)
                self._enough.release()


@pytest.mark.parametrize("end", [Server.kill, Server.stop], ids=["SIGKILL", "SIGTERM"])
def test_no_promotion_is_applied_twice_while_servers_come_and_go(
    backend: str, new_database: NewDatabase, tmp_path: Path, end: Callable[[Server], None]
) -> None:
    folder, url = tmp_path / "cwd", new_database(backend, migrated=True)
    with Server(folder, "--database-url", url) as server:
        source, target = prepared(server)
        address = server.url.removeprefix("http://")
        clients = Clients(sdk(server), source, target)
        clients.wait_for(ACKNOWLEDGED_BETWEEN_ENDS)
        end(server)
    for number in range(1, ENDS + 1):
        with Server(folder, "--database-url", url, MODELREGISTRY_HTTP_LISTEN=address) as server:
            clients.wait_for(ACKNOWLEDGED_BETWEEN_ENDS)
            if number == ENDS:
                clients.stop()
                counts = version_counts(server, target)
            else:
                end(server)

    assert set(counts.values()) == {1}
    assert set(clients.acknowledged) <= counts.keys()
    assert clients.failures


def test_a_promotion_that_found_no_turn_is_sent_again_and_applied_once(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd") as server:
        source, target = prepared(server)
        other = sqlite3.connect(server.data_dir / "modelregistry.db", isolation_level=None, check_same_thread=False)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")
            # Longer than a server waits, so that the first answer is a refusal.
            release = threading.Timer(WAIT_SECONDS * 1.3, lambda: other.execute("ROLLBACK"))
            release.start()
            sdk(server).models.Model.promote_version(target.rid, source_model_version_rid=source.rid, preview=True)
            release.join()

        assert version_counts(server, target) == {"master": 1}
        assert any("Overloaded" in line.get("error", "") for line in server.log())
