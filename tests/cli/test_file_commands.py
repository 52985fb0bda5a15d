"""Commands for model files: brought in, promoted, fetched, collected."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import pytest

from server.process.app import DATABASE_FILE
from tests.builders import FOLDER
from tests.processes import Server, failure, run

DATA = os.urandom(3 * 2**20 + 1)


@pytest.fixture
def model(server: Server, request: pytest.FixtureRequest) -> str:
    return str(server.json("create-model", request.node.name, "--folder", FOLDER)["rid"])


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """The model files."""
    file = tmp_path / "model.bin"
    file.write_bytes(DATA)
    return file


@pytest.fixture
def created(server: Server, model: str, binary: Path, tmp_path: Path) -> Any:
    """A version with them."""
    file = tmp_path / "version.json"
    file.write_text('{"modelApi": {"inputs": [], "outputs": []}}')
    return server.json("create-version", model, "--file", file, "--model-files", binary)


def test_files_come_back_as_they_were_from_a_promoted_version_too(
    server: Server, model: str, created: Any, tmp_path: Path
) -> None:
    promoted = server.json("promote", created["rid"], model, "--branch", "stable")
    to = tmp_path / "fetched"
    to.write_text("what was there before")

    result = server.run("download-files", model, promoted["rid"], "--to", to)

    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == f"wrote {len(DATA)} bytes with the SHA-256 {hashlib.sha256(DATA).hexdigest()}\n"
    assert to.read_bytes() == DATA
    assert not (tmp_path / "fetched.part").exists()


def test_an_upload_can_be_named_in_the_json_of_a_version(
    server: Server, model: str, binary: Path, tmp_path: Path
) -> None:
    upload = server.json("upload-files", model, binary)
    version = {
        "modelApi": {"inputs": [], "outputs": []},
        "modelFiles": {"type": "uploaded", "uploadId": upload["uploadId"]},
    }
    created = json.loads(server.run("create-version", model, "--file", "-", stdin=json.dumps(version)).stdout)

    server.run("download-files", model, created["rid"], "--to", tmp_path / "fetched")

    assert (tmp_path / "fetched").read_bytes() == DATA


def test_a_version_without_files_leaves_no_file_behind(server: Server, model: str, tmp_path: Path) -> None:
    file = tmp_path / "version.json"
    file.write_text('{"modelApi": {"inputs": [], "outputs": []}}')
    plain = server.json("create-version", model, "--file", file)

    refused = server.run("download-files", model, plain["rid"], "--to", tmp_path / "fetched")

    assert failure(refused, 64 + 5).startswith("ModelFilesNotFound: ")
    assert {path.name for path in tmp_path.iterdir()} == {"version.json"}


def test_a_file_that_is_not_there_is_named(server: Server, model: str, created: Any, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "file"

    assert failure(server.run("upload-files", model, missing)) == f"{missing}: No such file or directory\n".strip()
    assert failure(server.run("download-files", model, created["rid"], "--to", missing)) == (
        f"--to {missing}: No such file or directory"
    )


def test_what_cannot_be_read_to_its_end_is_named(server: Server, model: str) -> None:
    assert failure(server.run("upload-files", model, "/proc/self/mem")) == "/proc/self/mem: Input/output error"


def test_files_are_only_written_where_a_file_may_be(server: Server, model: str, created: Any, tmp_path: Path) -> None:
    for place in (tmp_path, Path(os.devnull)):
        refused = server.run("download-files", model, created["rid"], "--to", place)
        assert failure(refused) == f"--to {place}: is there, and is no file"
    assert {path.name for path in tmp_path.iterdir()} == {"model.bin", "version.json"}


def test_files_are_written_through_a_link_and_with_the_usual_rights(
    server: Server, model: str, created: Any, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "place")

    server.run("download-files", model, created["rid"], "--to", link)

    assert link.is_symlink()
    assert (tmp_path / "place").read_bytes() == DATA
    assert (tmp_path / "place").stat().st_mode == (tmp_path / "version.json").stat().st_mode


def test_files_are_named_in_one_way(server: Server, model: str, binary: Path) -> None:
    version = '{"modelApi": {}, "modelFiles": {"type": "dill", "serializedModelFunction": "text"}}'

    refused = server.run("create-version", model, "--file", "-", "--model-files", binary, stdin=version)

    assert failure(refused) == f"--model-files {binary}: --file - has modelFiles already"


@pytest.mark.parametrize("in_file", [True, False], ids=["in the file", "as an option"])
def test_a_version_with_an_id_names_an_upload_that_stays_the_same(
    server: Server, model: str, binary: Path, in_file: bool
) -> None:
    request_id = str(uuid.uuid4())
    options = () if in_file else ("--request-id", request_id)
    version: dict[str, Any] = {"modelApi": {}} | ({"requestId": request_id} if in_file else {})
    create = ("create-version", model, "--file", "-", *options)

    refused = server.run(*create, "--model-files", binary, stdin=json.dumps(version))

    told = "what has an id names an upload in --file, made once by upload-files"
    assert failure(refused) == f"--model-files {binary}: {told}"
    upload = server.json("upload-files", model, binary)
    named = json.dumps(version | {"modelFiles": {"type": "uploaded", "uploadId": upload["uploadId"]}})
    first, again = (json.loads(server.run(*create, stdin=named).stdout) for _ in range(2))
    assert first == again


def test_garbage_is_collected_beside_a_running_server(server: Server, created: Any) -> None:
    (registry,) = (server.data_dir / "files").iterdir()
    kept = set(registry.iterdir())
    (registry / "leftover").write_bytes(b"of a crash")

    result = run("gc", "--data-dir", server.data_dir)

    assert (result.returncode, result.stdout) == (0, "")
    told = "0 files of 0 bytes, 1 leftovers, 0 expired uploads, 0 comparisons, 0 events and 0 deliveries"
    assert result.stderr == f"removed {told}\n"
    assert set(registry.iterdir()) == kept


def test_events_past_their_retention_are_removed_and_counted(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd") as server:
        for name in ("one", "two", "three"):
            server.json("create-model", name, "--folder", FOLDER, "--output", "json")
        database = server.data_dir / DATABASE_FILE
        long_ago = "UPDATE events SET created_time = created_time - 8 * 86400000"
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            count = connection.execute(long_ago).rowcount

        for days, removed in (("9", 0), ("7", count - 1), ("1", 0)):
            result = run("gc", "--data-dir", server.data_dir, "--event-retention", days)
            assert result.stderr.endswith(f" 0 comparisons, {removed} events and 0 deliveries\n"), result
        refused = run("gc", "--data-dir", server.data_dir, "--event-retention", "0")
        assert refused.returncode == 2
        assert "--event-retention" in refused.stderr


def test_garbage_is_collected_where_there_is_a_database_alone(tmp_path: Path) -> None:
    problem = failure(run("gc", "--data-dir", tmp_path / "nowhere"))

    assert problem == f"there is no database in {tmp_path / 'nowhere'}: see --data-dir and --database-url"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_has_none_of_the_files_is_not_the_right_one(server: Server, created: Any, tmp_path: Path) -> None:
    for command in ("gc", "serve"):
        options = ("--data-dir", server.data_dir, "--files-url", f"file://{tmp_path}/wrong")
        problem = failure(run(command, *options))
        assert problem == "the store of model files has none of those that the database knows: see --files-url"


@pytest.mark.parametrize("url", ["nonsense://x", "s4://bucket"])
def test_a_place_for_files_that_nobody_knows_is_named(tmp_path: Path, url: str) -> None:
    assert run("migrate", "--data-dir", tmp_path).returncode == 0
    for command in ("gc", "serve"):
        problem = failure(run(command, "--data-dir", tmp_path, "--files-url", url))
        assert problem.startswith("the store of model files: ")
        assert url.partition(":")[0] in problem
