"""The Python client in environments of its users: with old libraries, with new ones, and beside what else they have."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.environments import build, install_into, new_environment, resolved
from tests.packaging.conftest import PACKAGE
from tests.processes import Server, run

ROOT = PACKAGE.parents[1]
SESSION = Path(__file__).with_name("client_session.py")
GEN, CLIENT_GEN = (folder / "gen/modelregistry/v1" for folder in (ROOT, PACKAGE))
# What its users have beside it: the oldest that it is for, and what that wants.
TENSORFLOW = ("tensorflow==2.18.*", "mlflow==2.22.*")
LINUX = "x86_64-manylinux_2_28"


def session(server: Server, python: Path) -> dict[str, Any]:
    """What client_session.py tells when an interpreter runs it; a library that warns of what it is given fails it."""
    environment = {"MODELREGISTRY_TARGET": server.address, "MODELREGISTRY_TOKEN": server.token()}
    done = run("-W", "error::UserWarning", SESSION, command=python, cwd=python.parent, **environment)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["error"] == ["NOT_FOUND", "ModelNotFound", "ri.models.main.model.none"]
    assert told["page"] == [told["promoted by a coroutine"], told["promoted"]]
    return told


def test_it_works_with_the_oldest_libraries_that_it_says(server: Server, client_wheel: Path, tmp_path: Path) -> None:
    oldest = ("--resolution", "lowest-direct", "-r", PACKAGE / "pyproject.toml")
    python = new_environment(tmp_path / "oldest", *oldest, client_wheel)

    told = session(server, python)

    assert told["protobuf"].startswith("5.29.")
    assert told["grpc"] == "1.75.1"


def test_it_works_with_the_newest_libraries_and_those_of_the_server(
    server: Server, client_wheel: Path, tmp_path: Path
) -> None:
    python = new_environment(tmp_path / "newest", client_wheel)

    told = session(server, python)

    assert told["protobuf"].split(".")[0] == version("protobuf").split(".")[0]


def test_it_takes_no_library_away_that_is_there(server: Server, client_wheel: Path, tmp_path: Path) -> None:
    """Installers look at what TensorFlow wants only while they install it."""
    python = new_environment(tmp_path / "both", "protobuf<6")

    install_into(python, client_wheel)

    assert session(server, python)["protobuf"].startswith("5.29.")


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_there_is_a_set_of_versions_beside_tensorflow_and_mlflow(python: str) -> None:
    found = resolved(PACKAGE / "pyproject.toml", LINUX, python, *TENSORFLOW)

    assert found["tensorflow"].startswith("2.18.")
    assert found["mlflow"].startswith("2.22.")
    assert found["protobuf"].startswith("5.29.")


def test_it_and_the_server_can_be_in_one_environment(client_wheel: Path, tmp_path: Path) -> None:
    """Both bring the stubs: those of the one that came last are used by both."""
    of_server = build(ROOT, tmp_path / "dist")
    python = new_environment(tmp_path / "both", of_server, client_wheel)
    for last in (of_server, client_wheel):
        install_into(python, "--reinstall", "--no-deps", last)
        command = python.with_name("modelregistry")
        with Server(tmp_path / last.name, command=command) as server:
            session(server, python)
            # The paths of HTTP are options in the stubs.
            with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
                assert any(path.endswith("/promoteVersion") for path in json.load(answer)["paths"])


def test_its_code_is_that_of_the_server_but_for_the_versions_that_it_asks_for() -> None:
    """`make check` makes it anew, and compares all of it."""
    messages = sorted(path.name for path in GEN.glob("*_pb2.py"))
    assert sorted(path.name for path in CLIENT_GEN.glob("*_pb2.py")) == messages
    assert len(messages) > 5
    for name in messages:
        assert (CLIENT_GEN / name).read_text().splitlines()[18:] == (GEN / name).read_text().splitlines()[18:]


def test_its_code_is_fit_for_the_oldest_python_that_it_says() -> None:
    checker = [sys.executable, "-m", "mypy", "--python-version", "3.10", "-p", "modelregistry_client"]
    done = subprocess.run(checker, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
