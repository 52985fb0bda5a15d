"""The wheel, installed as users install it, on each supported version of Python that this machine has."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.environments import build
from tests.gateway.test_refusals import ask
from tests.packaging.versions import ROOT, SUPPORTED, image_version, interpreter
from tests.processes import Server, environment, failure, run

FOUND = {version: python for version in SUPPORTED if (python := interpreter(version))}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def step(*command: str | Path) -> None:
    result = subprocess.run(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_the_python_of_the_image_is_among_them() -> None:
    assert image_version() in FOUND


@pytest.mark.parametrize("version", FOUND)
def test_a_server_answers_logs_and_stops(version: str, wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    step(FOUND[version], "-m", "venv", venv)
    step(venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    command = venv / "bin" / "modelregistry"
    with Server(tmp_path / "cwd", command=command) as server:
        token = run("token", "--data-dir", server.data_dir, command=command).stdout.rstrip("\n")
        target = {"MODELREGISTRY_TARGET": server.address, "MODELREGISTRY_TOKEN": token}
        request = json.loads(run("demo", "--prepare", command=command, **target).stdout)
        promotion = ("promote", request["source_model_version_rid"], request["model_rid"])

        assert json.loads(run(*promotion, command=command, **target).stdout)["versionNumber"] == 1
        refused = run(*promotion, command=command, **{**target, "MODELREGISTRY_TOKEN": "no.such.token"})
        assert "InvalidCredentials" in failure(refused, exit_code=80)
        assert ask(server, "GET", f"/api/v2/models/{request['model_rid']}", token=token).status == 200

        rpc = "/modelregistry.v1.ModelService/PromoteVersion"
        assert server.logged(method=rpc, code="OK")["user"] == "user:admin"
        assert "InvalidCredentials" in server.logged(code="UNAUTHENTICATED")["error"]
        server.stop()
        assert all("exception" not in line for line in server.log())
