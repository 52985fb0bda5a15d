"""Backup and restore as docs/operations.md has them, line by line, while the server is busy."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.conftest import NewDatabase
from tests.e2e.load import Promotions
from tests.postgres import PROGRAMS, installation
from tests.processes import Server, environment, run
from tests.records import consistent_records
from tests.rpc.harness import User

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
CLIENTS = 4
SOME = 25
LINES = r"```sh {} {}\n(.*?)```"


def carry_out(what: str, backend: str, **variables: str | Path) -> None:
    """Run the lines of the page."""
    [lines] = re.findall(LINES.format(what, backend), PAGE, re.DOTALL)
    clean = environment(**{name: str(value) for name, value in variables.items()})
    clean["PATH"] = f"{installation() / PROGRAMS}{os.pathsep}{clean['PATH']}"
    done = subprocess.run(["sh", "-e", "-c", lines], env=clean, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


class Uploads:
    """Creates versions with files of their own, on and on."""

    def __init__(self, user: User, model: Model) -> None:
        self._user = user
        self._model = model
        self._stopping = threading.Event()
        self.created: dict[str, bytes] = {}

    def run(self) -> None:
        while not self._stopping.is_set():
            data = b"files %d " % len(self.created) * 10_000
            version = self._user.create_version_with_files(self._model, data, branch="uploads")
            self.created[version.rid] = data

    def stop(self) -> None:
        self._stopping.set()


@pytest.fixture
def options(backend: str, new_database: NewDatabase) -> Callable[[], list[str]]:
    """Gives the options of a server on a new and empty database; an embedded one is in the data folder."""

    def new() -> list[str]:
        return [] if backend == "sqlite" else ["--database-url", new_database(backend)]

    return new


def test_a_backup_that_was_taken_under_load_has_all_that_was_acknowledged_before(
    backend: str, options: Callable[[], list[str]], tmp_path: Path
) -> None:
    backup, served, restored = tmp_path / "backup", options(), options()
    backup.mkdir()
    if served:
        assert run("migrate", *served).returncode == 0
    with Server(tmp_path / "cwd", *served) as server, grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        model, targets = admin.create_model("source"), [admin.create_model(f"target-{n}") for n in range(2)]
        source = admin.create_version_with_files(model, b"weights" * 100_000)
        load = Promotions(lambda: grpc.insecure_channel(server.address), server.user, source, targets)
        uploads = Uploads(admin, model)
        with ThreadPoolExecutor(1) as pool, load.running(CLIENTS):
            uploading = pool.submit(uploads.run)
            load.wait_for_more(SOME)
            before, files_before = load.so_far(), dict(uploads.created)

            carry_out("backup", backend, DATA_DIR=server.data_dir, DATABASE_URL="".join(served[1:]), BACKUP=backup)

            meanwhile = len(load.so_far()) - len(before)
            load.wait_for_more(SOME)
            uploads.stop()
            uploading.result()
        everything = consistent_records(admin, model.rid, *(target.rid for target in targets)).versions
    assert files_before
    assert meanwhile
    assert everything.keys() >= load.acknowledged.keys()

    place = tmp_path / "restored"
    (place / "modelregistry-data").mkdir(parents=True)
    data_dir = place / "modelregistry-data"
    carry_out("restore", backend, DATA_DIR=data_dir, DATABASE_URL="".join(restored[1:]), BACKUP=backup)

    checked = run("fsck", *restored, "--data-dir", data_dir)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr
    # It looks through all files, and finds those that it knows.
    collected = run("gc", *restored, "--data-dir", data_dir)
    assert (collected.returncode, collected.stderr.split()[:3]) == (0, ["removed", "0", "files"])
    with Server(place, *restored) as server, grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        found = consistent_records(admin, model.rid, *(target.rid for target in targets)).versions
        assert before.items() <= found.items() <= everything.items()
        assert found.keys() >= files_before.keys()
        for rid, data in uploads.created.items():
            if rid in found:
                assert admin.download(found[rid]) == data
        for target in targets:
            numbers = numbers_of(found, target)
            promoted = admin.promote(source, target)
            assert promoted.version_number == len(numbers) + 1
            assert admin.download(promoted) == b"weights" * 100_000


def numbers_of(versions: dict[str, ModelVersion], model: Model) -> list[int]:
    return [version.version_number for version in versions.values() if version.model_rid == model.rid]
