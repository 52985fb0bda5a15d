"""One server with TLS for the clients in all languages, and the shell lines of the pages that tell how to make them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.certificates import Authority
from tests.conftest import NewDatabase
from tests.interop.balance.replicas import FIRST, SECOND, Replicas
from tests.processes import Server, environment

ROOT = Path(__file__).parents[2]
# A cold build downloads what it needs.
BUILD_SECONDS = 600


class Example(NamedTuple):
    """An example that was built: where, and the lines that run its programs, and its watchers."""

    folder: Path
    programs: list[str]
    watchers: list[str]


Built = Callable[[str], Example]


@dataclass(frozen=True)
class Service:
    """A running server and its certificates."""

    server: Server
    authority: Authority
    cert: Path
    key: Path

    def variables(self, address: str | None = None) -> dict[str, str]:
        """The environment in which clients find the server, or what stands in front of it at an address."""
        return {
            # By name: not all libraries take an address for the name of a server with TLS.
            "MODELREGISTRY_TARGET": (address or self.server.address).replace("127.0.0.1", "localhost"),
            "MODELREGISTRY_TOKEN": self.server.token(),
            "MODELREGISTRY_CA_CERT": str(self.authority.cert),
        }


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The one server that all clients call."""
    folder = tmp_path_factory.mktemp("interop")
    authority = Authority(folder / "authority")
    cert, key = authority.issue("server")
    with Server(folder / "server", "--tls-cert", cert, "--tls-key", key) as server:
        yield Service(server, authority, cert, key)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Builds an example in a copy of its folder, once."""

    @cache
    def build(language: str) -> Example:
        folder = tmp_path_factory.mktemp("examples") / language
        tracked = pasted("git ls-files", ROOT / "examples" / language).stdout.split()
        for name in tracked:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "examples" / language / name, folder / name)
        make, run, *watch = shell_blocks((folder / "README.md").read_text())
        pasted(make, folder)
        return Example(folder, run.splitlines(), "".join(watch).splitlines())

    return build


@pytest.fixture
def replicas(new_database: NewDatabase, tmp_path: Path) -> Iterator[Replicas]:
    started = Replicas(tmp_path, new_database("postgresql", migrated=True))
    started.start(FIRST)
    started.start(SECOND)
    yield started
    started.close()


@pytest.fixture
def model_and_version(replicas: Replicas) -> tuple[str, str]:
    """Where to promote, and what."""
    request = json.loads(replicas[FIRST].run("demo", "--prepare").stdout)
    model, version = request["model_rid"], request["source_model_version_rid"]
    # So that there is a branch to read.
    replicas[FIRST].json("promote", version, model)
    return model, version


def shell_blocks(page: str) -> list[str]:
    """The blocks of a page, or of one of its sections, that are marked to be pasted into a shell."""
    return re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def pasted(lines: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What comes of lines that are pasted into a shell; none of them may fail."""
    result = in_shell(lines, folder, **variables)
    assert result.returncode == 0, f"{lines}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result


def in_shell(lines: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What comes of lines in a shell, up to the first that fails."""
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", lines],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        timeout=BUILD_SECONDS,
    )
