"""A server whose database file goes away: it acknowledges nothing that is lost, says so, and makes no other one."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from server.process.app import DATABASE_FILE
from tests.e2e.test_workers import workers_of
from tests.processes import DEADLINE_SECONDS, OWN_CONNECTION, Server, until
from tests.records import consistent_records
from tests.rpc.harness import Failure, User, failure_of

CLIENTS = 4
SOME = 20
NOT_SERVING = b"\x08\x02"


def put_a_copy_in_place(file: Path) -> None:
    """As a restore does that a server did not wait for."""
    shutil.copy(file, file.with_name("copy"))
    file.with_name("copy").replace(file)


LOSSES: dict[str, Callable[[Path], object]] = {
    "removed": lambda file: file.unlink(),
    "replaced": put_a_copy_in_place,
    "folder renamed": lambda file: file.parent.rename(file.parent.with_name("elsewhere")),
}


class Load:
    """Clients that promote until they are refused, each over a connection of its own."""

    def __init__(self, server: Server, admin: User) -> None:
        self._server = server
        self._admin = admin
        self._target = admin.create_model("target")
        self._source = admin.create_version(admin.create_model("source"))
        self._enough = threading.Event()
        self.model_rids = self._source.model_rid, self._target.rid
        self.acknowledged: list[str] = []
        self.is_lost = False

    def lose(self, lose: Callable[[], object]) -> None:
        """Lose the file in the midst; all clients are then told not to try again."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            calls = [clients.submit(self._promote_until_refused) for _ in range(CLIENTS)]
            assert self._enough.wait(DEADLINE_SECONDS)
            lose()
            self.is_lost = True
            refused = [call.result() for call in calls]
        assert {(failure.name, failure.retry_seconds) for failure in refused} == {("StorageUnavailable", None)}

    def _promote_until_refused(self) -> Failure:
        with grpc.insecure_channel(self._server.address, OWN_CONNECTION) as channel:
            user = dataclasses.replace(self._admin, channel=channel)
            while True:
                was_lost = self.is_lost
                try:
                    self.acknowledged.append(user.promote(self._source, self._target).rid)
                except grpc.RpcError as error:
                    return failure_of(error)
                assert not was_lost
                if len(self.acknowledged) >= SOME:
                    self._enough.set()


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES.keys())
def test_nothing_is_acknowledged_and_no_worker_makes_or_takes_another_file(
    lose: Callable[[Path], object], tmp_path: Path
) -> None:
    with Server(tmp_path / "server", "--workers", "2") as server, grpc.insecure_channel(server.address) as channel:
        load = Load(server, server.user(channel))

        load.lose(lambda: lose(server.data_dir / DATABASE_FILE))

        until(lambda: server.health() == {NOT_SERVING})
        left = sorted(tmp_path.rglob("*"))
        # One that dies is not replaced by one with an empty database, however often that is tried; nor are the others.
        survivor = max(workers_of(server))
        os.kill(min(workers_of(server)), signal.SIGKILL)
        why = server.logged(message="a worker died", restart_in_seconds=0.4)["error"]
        assert f"{DATABASE_FILE} is not the file that this server opened" in why
        server.process.send_signal(signal.SIGHUP)
        server.logged(message=f"a new worker cannot start, so the old one stays: {why}")
        assert survivor in workers_of(server)
        assert sorted(tmp_path.rglob("*")) == left


def test_what_was_acknowledged_is_there_when_the_file_is_back(tmp_path: Path) -> None:
    with Server(tmp_path / "server", "--workers", "2") as server, grpc.insecure_channel(server.address) as channel:
        load = Load(server, server.user(channel))
        file, elsewhere = server.data_dir / DATABASE_FILE, tmp_path / "elsewhere"
        load.lose(lambda: file.rename(elsewhere))
        server.kill()
    elsewhere.rename(file)
    with Server(tmp_path / "server") as server, grpc.insecure_channel(server.address) as channel:
        versions = consistent_records(server.user(channel), *load.model_rids).versions
    assert versions.keys() >= set(load.acknowledged)
