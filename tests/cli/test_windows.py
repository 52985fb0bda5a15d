"""On Windows the command line is a client, and says so where it would have to be more.

There is no Windows here: windows/sitecustomize.py takes away what Windows lacks.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelregistry.v1.model_service_pb2 import DownloadModelFilesResponse
from modelregistry.v1.model_service_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from tests.builders import FOLDER
from tests.processes import Server, failure, run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WINDOWS = {
    "PYTHONPATH": str(HERE / "windows"),
    # What is printed and read without an encoding is not UTF-8 there.
    "PYTHONIOENCODING": "cp1252",
    "PYTHONWARNDEFAULTENCODING": "1",
    "PYTHONWARNINGS": "error::EncodingWarning",
}
run_there = partial(run, **WINDOWS)
DATA = os.urandom(2**20 + 1)
FOLDERS = {name: ROOT / path / name for name, path in (("server", ""), ("modelregistry_client", "clients/python"))}
UNIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty", "uvloop"}


@pytest.mark.parametrize("command", ["serve", "demo", "migrate", "import -", "gc", "fsck"])
def test_what_cannot_work_there_says_so(command: str, tmp_path: Path) -> None:
    refused = run_there(*command.split(), cwd=tmp_path)

    assert failure(refused) == (
        f"modelregistry {command.split()[0]} does not run on Windows, since servers and their databases need Linux or"
        " macOS: run it there, in WSL or in a container, and call that server from here with --target"
    )
    assert not list(tmp_path.iterdir())


def test_it_calls_a_server(server: Server, tmp_path: Path) -> None:
    def called(*arguments: str | Path) -> Any:
        return server.json(*arguments, call=run_there)

    (tmp_path / "files").write_bytes(DATA)
    (tmp_path / "version.json").write_text('{"modelApi": {"inputs": [], "outputs": []}}')

    created = called("create-model", "Wärmebedarf → ✓", "--folder", FOLDER)
    assert created["name"] == "Wärmebedarf → ✓"
    model = created["rid"]
    version = called("create-version", model, "--file", tmp_path / "version.json", "--model-files", tmp_path / "files")
    promoted = called("promote", version["rid"], model, "--branch", "stable")
    assert called("get-branch", model, "--branch", "stable")["head"]["rid"] == promoted["rid"]
    assert len(called("list-promotions", "--model", model)["data"]) == 1
    assert "Wärmebedarf → ✓" in server.run("lineage", promoted["rid"], call=run_there).stdout
    table = server.run("get-model", model, "--output", "table", call=run_there)
    assert ("Wärmebedarf → ✓" in table.stdout, table.stderr) == (True, "")
    fetched = server.run("download-files", model, promoted["rid"], "--to", tmp_path / "fetched", call=run_there)
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / "fetched").read_bytes() == DATA
    assert {path.name for path in tmp_path.iterdir()} == {"files", "version.json", "fetched"}
    assert json.loads(server.run("demo", "--prepare", call=run_there).stdout)["preview"]


def test_errors_are_the_same(server: Server) -> None:
    refused = server.run("get-model", "ri.models.main.model.none", call=run_there)

    assert failure(refused, 64 + 5).startswith("ModelNotFound: ")


def test_a_key_is_made_and_found_again(tmp_path: Path) -> None:
    tokens = [run_there("token", cwd=tmp_path) for _ in range(2)]

    # Of its mode, which says nothing there, there is no word.
    assert [(each.returncode, each.stderr) for each in tokens] == [(0, ""), (0, "")]
    (tmp_path / "modelregistry-data/local-key.pem").chmod(0o666)
    assert run_there("token", cwd=tmp_path).stderr == ""
    assert [path.name for path in (tmp_path / "modelregistry-data").iterdir()] == ["local-key.pem"]


def test_protos_are_written(tmp_path: Path) -> None:
    written = run_there("protos", "--out", tmp_path / "protos", "--descriptor-set", tmp_path / "api.binpb")

    assert written.returncode == 0, written.stderr
    assert b"\r" not in (tmp_path / "protos/modelregistry/v1/model.proto").read_bytes()


@pytest.fixture
def broken() -> Iterator[str]:
    """The address of a server whose downloads do not end as they should."""

    class Broken(ModelServiceServicer):
        def DownloadModelFiles(self, request: Any, context: grpc.ServicerContext) -> Any:
            yield DownloadModelFilesResponse(chunk=b"part", sha256="0" * 64)

    with futures.ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        add_ModelServiceServicer_to_server(Broken(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def test_a_download_that_fails_leaves_no_file_behind(broken: str, tmp_path: Path) -> None:
    arguments = ("ri.models.main.model.a", "ri.models.main.model-version.a", "--to", tmp_path / "fetched")
    refused = run_there("download-files", *arguments, "--target", broken)

    assert "have the SHA-256" in failure(refused)
    assert not list(tmp_path.iterdir())


def test_commands_load_nothing_that_is_only_for_unix() -> None:
    """What they import when they are loaded, and what that imports; not what they import when they run."""
    seen, ahead = set(), [ROOT / "server/__main__.py", *(ROOT / "server/cli").glob("*.py")]
    while ahead:
        path = ahead.pop()
        if path in seen:
            continue
        seen.add(path)
        names = set(imported_at_once(path))
        assert not {name.split(".")[0] for name in names} & UNIX_ONLY, path
        ahead += [file for name in names for file in modules_of(name)]
    assert len(seen) > 30
    assert ROOT / "clients/python/modelregistry_client/files.py" in seen
    assert ROOT / "server/process/app.py" not in seen


def imported_at_once(path: Path) -> Iterator[str]:
    """The full names that a file imports when it is loaded: not in functions, nor for type checkers."""
    ahead: list[ast.AST] = [ast.parse(path.read_text())]
    while ahead:
        node = ahead.pop()
        match node:
            case ast.Import():
                yield from (name.name for name in node.names)
            case ast.ImportFrom():
                yield from (f"{node.module}.{name.name}" for name in node.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                ahead += node.orelse
                continue
        ahead += ast.iter_child_nodes(node)


def modules_of(name: str) -> list[Path]:
    """The files of ours that are loaded for a full name, which may be that of something in a module."""
    parts = name.split(".")
    if parts[0] not in FOLDERS:
        return []
    places = [FOLDERS[parts[0]].joinpath(*parts[1:end]) for end in range(1, len(parts) + 1)]
    files = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py"))]
    return [file for file in files if file.exists()]
