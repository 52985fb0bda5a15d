"""Clients share their calls out between replicas, find new ones, and lose no call when one is started again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NewDatabase
from tests.interop.balance.names import Names
from tests.interop.conftest import BUILD_SECONDS, ROOT, pasted
from tests.postgres import unused_port
from tests.processes import DEADLINE_SECONDS, Server, environment, until

CONFIG = ROOT / "protos/modelregistry/v1/service_config.json"
FIRST, SECOND = "127.0.0.1", "127.0.0.2"
# Enough that shares of 40 to 60 % are no matter of chance.
CALLS = 400
HERE = Path(__file__).parent

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


class Replicas:
    """Two servers on one database and one port, each at an address of its own, which can be stopped and started."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.port = unused_port()
        self._folder = folder
        # One data folder, and so one key pair: each trusts what the other signs.
        keys = folder / FIRST / "modelregistry-data"
        self._options = ("--database-url", database_url, "--data-dir", keys, "--max-connection-age", "1")
        self._running: dict[str, Server] = {}
        self._served: Counter[str] = Counter()

    def __getitem__(self, host: str) -> Server:
        return self._running[host]

    def start(self, host: str) -> None:
        """Start the server at an address, and return when it serves."""
        self._running[host] = Server(self._folder / host, *self._options, listen=f"{host}:{self.port}")

    def stop(self, host: str) -> None:
        """Stop it, which it must do in order."""
        self._running.pop(host).stop()

    def kill(self, host: str) -> None:
        """SIGKILL it, and all that it started."""
        server = self._running.pop(host)
        workers = server.workers()
        server.kill()
        until(lambda: not any(worker.is_running() for worker in workers))

    def close(self) -> None:
        """Stop all that run."""
        for host in list(self._running):
            self.stop(host)

    def served(self, host: str) -> int:
        """How many calls of the load a server has answered, whichever process it was."""
        log = (self._folder / f"{host}.log").read_text()
        return sum(log.count(f"ModelService/{method}") for method in ("GetBranch", "PromoteVersion"))

    def shares(self) -> list[float]:
        """The shares of both of the next calls."""
        before = self._counts()
        until(lambda: sum(self._counts()) - sum(before) >= CALLS)
        more = [now - then for now, then in zip(self._counts(), before, strict=True)]
        return [each / sum(more) for each in more]

    def await_calls(self, host: str) -> None:
        """Return when a server has got some more calls."""
        before = self.served(host)
        until(lambda: self.served(host) >= before + CALLS / 20)

    def _counts(self) -> list[int]:
        return [self.served(host) for host in (FIRST, SECOND)]


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


class Client:
    """A running load program."""

    def __init__(self, command: Sequence[str | Path], target: str, token: str, model: str, version: str) -> None:
        variables = {"MODELREGISTRY_TARGET": target, "MODELREGISTRY_TOKEN": token}
        self._process = subprocess.Popen(
            [*command, "-model", model, "-version", version, "-config", CONFIG, "-resolve", "100ms"],
            cwd=ROOT,
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def await_first_calls(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def end(self) -> dict[str, Any]:
        """End it, and return what came of its calls."""
        printed, _ = self._process.communicate("", timeout=DEADLINE_SECONDS)
        assert self._process.returncode == 0
        return json.loads(printed)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)


Calling = Callable[[str], Any]


@pytest.fixture(params=["go", "python"])
def command(request: pytest.FixtureRequest) -> Sequence[str | Path]:
    """The load program in each language."""
    if request.param == "python":
        return sys.executable, "-m", "tests.interop.balance.load"
    folder, _ = request.getfixturevalue("built")("go")
    (folder / "load").mkdir(exist_ok=True)
    shutil.copy(HERE / "balance/load.go", folder / "load/main.go")
    pasted("go build -o bin/load ./load", folder)
    return (folder / "bin/load",)


@pytest.fixture
def calling(command: Sequence[str | Path], replicas: Replicas, model_and_version: tuple[str, str]) -> Calling:
    """Lets a client call a target."""

    @contextmanager
    def run(target: str) -> Iterator[Client]:
        client = Client(command, target, replicas[FIRST].token(), *model_and_version)
        try:
            client.await_first_calls()
            yield client
        finally:
            client.kill()

    return run


def fair(shares: list[float]) -> bool:
    return all(0.4 <= share <= 0.6 for share in shares)


def test_each_replica_gets_its_share(replicas: Replicas, calling: Calling) -> None:
    with Names(FIRST, SECOND) as names, calling(names.target(replicas.port)) as client:
        assert fair(replicas.shares())
        assert client.end()["failures"] == []


def test_a_new_replica_gets_its_share_when_connections_have_come_of_age(replicas: Replicas, calling: Calling) -> None:
    with Names(FIRST) as names, calling(names.target(replicas.port)) as client:
        assert replicas.shares() == [1, 0]
        names.addresses = [FIRST, SECOND]
        replicas.await_calls(SECOND)
        assert fair(replicas.shares())
        assert client.end()["failures"] == []


def test_a_replica_that_is_started_again_loses_no_call(
    replicas: Replicas, calling: Calling, model_and_version: tuple[str, str]
) -> None:
    with Names(FIRST, SECOND) as names, calling(names.target(replicas.port)) as client:
        for end in (replicas.stop, replicas.kill):
            for host in (SECOND, FIRST):
                end(host)
                replicas.await_calls(SECOND if host == FIRST else FIRST)
                replicas.start(host)
                replicas.await_calls(host)
        assert fair(replicas.shares())
        came_of_it = client.end()
    assert came_of_it["failures"] == []
    model, _ = model_and_version
    assert came_of_it["promotions"] > CALLS / 4
    head = replicas[FIRST].json("get-branch", model)
    assert len(set(came_of_it["versions"])) == came_of_it["promotions"]
    assert head["versionCount"] == came_of_it["promotions"] + 1
