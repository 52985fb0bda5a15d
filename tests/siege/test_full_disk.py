"""A server on a disk that fills up: it says so, loses nothing, and what must not wait does not wait."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR
from modelregistry.v1.model_files_pb2 import DillModelFiles, ModelFiles
from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.processes import Server, run, until
from tests.records import consistent_records
from tests.rpc.harness import Failure, User, failure_of
from tests.siege.disks import Disk, small_disk

RESERVE = 4 * 2**20
DISK = 48 * 2**20
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
# More than there is room for.
MOST = 20_000
DATABASE_FULL = "The disk of the database is full"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path, DISK) as disk:
        yield disk


@contextmanager
def serving(disk: Disk, tmp_path: Path) -> Iterator[Server]:
    options = ("--database-url", f"sqlite:///{disk.folder}/registry.db", "--files-url", f"file://{disk.folder}/files")
    with Server(
        tmp_path / "cwd", *options, "--disk-reserve", str(RESERVE), "--workers", "2", command=disk.command
    ) as server:
        yield server


def first_failure(call: Callable[[], object]) -> Failure:
    """How a call fails once it does: what is on the disk already is written over for a while."""
    for _ in range(MOST):
        try:
            call()
        except grpc.RpcError as error:
            return failure_of(error)
    raise AssertionError("nothing was refused")


def reserve(disk: Disk) -> int:
    return (disk.here / "registry.db-reserve").stat().st_size


@dataclasses.dataclass
class Scene:
    """Two models, a version that is promoted from one into the other, and Jane, who may."""

    admin: User
    jane: User
    models: list[Model]
    source: ModelVersion
    promoted: list[ModelVersion] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, server: Server, channel: grpc.Channel) -> Scene:
        admin, jane = server.user(channel), server.user(channel, "jane")
        models = [admin.create_model(name) for name in ("source", "target")]
        for model in models:
            admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_EDITOR)
        return cls(admin, jane, models, admin.create_version_with_files(models[0], b"weights"))

    def promote(self) -> None:
        self.promoted.append(self.jane.promote(self.source, self.models[1]))

    def roll_back(self) -> None:
        first = self.promoted[0].version_number
        self.promoted.append(self.admin("RollbackBranch", model_rid=self.models[1].rid, to_version_number=first))

    def assert_all_there(self) -> None:
        versions = consistent_records(self.admin, *(model.rid for model in self.models)).versions
        assert versions.keys() >= {version.rid for version in self.promoted}
        for version in (self.source, self.promoted[-1]):
            assert self.admin.download(version) == b"weights"


@pytest.mark.timeout(600)
def test_a_full_disk_refuses_promotions_says_so_and_lets_roles_be_taken_away(disk: Disk, tmp_path: Path) -> None:
    with serving(disk, tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        scene = Scene.of(server, channel)
        scene.promote()
        scene.promote()
        assert reserve(disk) == RESERVE

        # Model files stop first, and leave the rest to the database.
        refused = first_failure(lambda: scene.jane.upload(scene.models[0], os.urandom(2**22)))
        assert (refused.name, refused.retry_seconds) == ("StorageUnavailable", 1)
        assert "There is no room for model files." in refused.message
        assert disk.free() > RESERVE
        disk.fill(leave=2 * RESERVE - 2**20)
        for refusing in (
            lambda: scene.jane.upload(scene.models[0], b"x"),
            lambda: scene.jane.create_version(
                scene.models[0], model_files=ModelFiles(dill=DillModelFiles(serialized_model_function="x"))
            ),
        ):
            assert "There is no room for model files." in first_failure(refusing).message
        head = scene.admin("GetBranch", model_rid=scene.models[0].rid).head
        assert head.rid == scene.source.rid
        scene.promote()
        assert server.health() == {SERVING}

        # Then the database has no room.
        disk.fill()
        refused = first_failure(scene.promote)
        assert (refused.name, refused.retry_seconds) == ("StorageUnavailable", 1)
        assert DATABASE_FULL in refused.message
        until(lambda: server.health() == {NOT_SERVING})
        assert reserve(disk) == RESERVE

        for model in scene.models:
            scene.admin("RevokeRole", resource_rid=model.rid, principal="user:jane")
            assert scene.jane.failure("GetModel", model_rid=model.rid).name == "ModelNotFound"
        scene.roll_back()
        assert reserve(disk) == 0
        assert server.logged(level="ERROR", logger="server.storage.sql.disk_reserve")["message"].startswith(
            "the disk is"
        )
        # What has become free is for that, and for nothing else.
        scene.jane = scene.admin
        for _ in range(5):
            with pytest.raises(grpc.RpcError, match=DATABASE_FULL):
                scene.promote()
        scene.roll_back()

        disk.empty()
        until(lambda: server.health() == {SERVING})
        assert reserve(disk) == RESERVE
        assert "is held again" in server.logged(level="WARNING", logger="server.storage.sql.disk_reserve")["message"]
        scene.promote()
        scene.source = scene.admin.create_version_with_files(scene.models[0], b"weights", branch="more")
        scene.promote()
        scene.assert_all_there()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("end", [Server.stop, Server.kill], ids=["stopped", "killed"])
def test_a_server_starts_on_a_full_disk(end: Callable[[Server], None], disk: Disk, tmp_path: Path) -> None:
    with serving(disk, tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        scene = Scene.of(server, channel)
        scene.promote()
        scene.promote()
        end(server)
    disk.fill()
    with serving(disk, tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        scene.admin = scene.jane = server.user(channel)
        assert DATABASE_FULL in first_failure(scene.promote).message
        until(lambda: server.health() == {NOT_SERVING})
        # As operators do it, whose commands do not wait until the server is well.
        assert server.run("revoke", scene.models[0].rid, "user:jane").returncode == 0
        scene.roll_back()
        disk.empty()
        until(lambda: server.health() == {SERVING})
        scene.promote()
        scene.assert_all_there()


@pytest.mark.timeout(600)
def test_what_no_version_names_is_collected_on_a_full_disk(disk: Disk, tmp_path: Path) -> None:
    with serving(disk, tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        scene = Scene.of(server, channel)
        # What an upload that was cut off leaves.
        [folder] = (disk.here / "files").iterdir()
        (folder / "leftover").write_bytes(bytes(16 * 2**20))
        disk.fill()
        assert DATABASE_FULL in first_failure(scene.promote).message
        options = [f"--database-url=sqlite:///{disk.folder}/registry.db", f"--files-url=file://{disk.folder}/files"]

        collected = run("gc", *options, command=disk.command, cwd=tmp_path)

        assert collected.returncode == 0
        assert " 1 leftovers," in collected.stderr
        until(lambda: server.health() == {SERVING})
        scene.promote()
        scene.assert_all_there()
