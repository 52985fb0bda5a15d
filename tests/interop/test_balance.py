"""Clients share their calls out between replicas, find new ones, and lose no call when one is started again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.balance.names import Names
from tests.interop.balance.replicas import CALLS, FIRST, SECOND, Replicas, fair
from tests.interop.conftest import BUILD_SECONDS, ROOT, pasted
from tests.processes import DEADLINE_SECONDS, environment

CONFIG = ROOT / "protos/modelregistry/v1/service_config.json"
HERE = Path(__file__).parent

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


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
    folder = request.getfixturevalue("built")("go").folder
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
