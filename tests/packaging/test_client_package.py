"""The Python client as a distribution of its own: it promotes as its README says, and type checkers know it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.environments import new_environment
from tests.packaging.conftest import PACKAGE
from tests.processes import Server, run

README = "".join(re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def python(client_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the package, what that wants, and the types of it."""
    return new_environment(tmp_path_factory.mktemp("empty") / "venv", f"{client_wheel}[types]")


def test_the_wheel_has_the_stubs_as_they_are_in_the_repository(client_wheel: Path) -> None:
    archive = zipfile.ZipFile(client_wheel)
    stubs = [file for file in (PACKAGE / "gen/modelregistry/v1").iterdir() if file.is_file()]
    assert len(stubs) > 20
    for file in stubs:
        assert archive.read(f"modelregistry/v1/{file.name}") == file.read_bytes()
    assert "modelregistry/v1/service_config.json" in archive.namelist()
    assert "modelregistry_client/py.typed" in archive.namelist()


def test_what_the_readme_says_promotes_without_anything_of_the_server(python: Path, tmp_path: Path) -> None:
    with Server(tmp_path / "running") as server:
        request = json.loads(server.run("demo", "--prepare").stdout)
        (tmp_path / "readme.py").write_text(README)
        program = f"""
import asyncio, importlib.util, readme
readme.promote({request["source_model_version_rid"]!r}, {request["model_rid"]!r})
readme.promote({request["source_model_version_rid"]!r}, "ri.models.main.model.none")
print("live", asyncio.run(readme.live({request["model_rid"]!r})))
print([name for name in ("server", "sqlalchemy", "starlette", "typer") if importlib.util.find_spec(name)])
"""
        told = run(
            *("-c", program),
            command=python,
            cwd=tmp_path,
            MODELREGISTRY_TARGET=server.address,
            MODELREGISTRY_TOKEN=server.token(),
        )
        head = server.json("get-branch", request["model_rid"])["head"]["rid"]
    assert told.stdout.splitlines() == [
        f"promoted {head} as version 1",
        "there is no ri.models.main.model.none",
        f"live {head}",
        "[]",
    ], told.stderr


def test_type_checkers_know_requests_answers_and_errors(python: Path, tmp_path: Path) -> None:
    told = mypy(python, tmp_path, "reveal_type(connect('', '').models.GetBranch(GetBranchRequest()).head)")
    assert 'note: Revealed type is "modelregistry.v1.model_pb2.ModelVersion"' in told
    assert "Success" in told
    told = mypy(python, tmp_path, "connect('', '').models.GetBranch(PromoteVersionRequest())")
    assert 'incompatible type "PromoteVersionRequest"; expected "GetBranchRequest"' in told


def mypy(python: Path, folder: Path, line: str) -> str:
    """What mypy says of the README's code and one more line, with the packages of an interpreter."""
    (folder / "program.py").write_text(f"{README}\n{line}\n")
    checker = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "program.py"]
    return subprocess.run(checker, capture_output=True, text=True, check=False, cwd=folder).stdout
