"""The peer: an MLflow server, loaded with the calls that its own client makes to copy and to read a version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from bench.load import base64_of, put
from bench.machine import on_processors
from bench.scenarios import CALLERS
from bench.tools import BUILD
from bench.void import Void
from tests.postgres import unused_port

VERSION = "3.17.2"
REQUIREMENTS = (f"mlflow=={VERSION}", "psycopg[binary]>=3.3.9,<4")
COPY = "mlflow_copy_model_version"
GET = "mlflow_get_model_version"
TITLES = {COPY: "MLflow: copy_model_version into 32 targets", GET: "MLflow: get_model_version"}
# What each is put beside.
OURS = {COPY: "promote_many", GET: "get_version"}

_IN_ITS_FAVOUR = {
    # Its runners of background jobs do nothing for the registry, and take a share of the processors.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # A copy holds one connection and asks for another: with the default pool, 32 callers wait 30 s for each other.
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "80",
}
# By default it hangs up on a caller who rests for 5 s, as the first does while the others make their first calls.
_KEEPS_CONNECTIONS = "--timeout-keep-alive 600"
_API = "/api/2.0/mlflow"
_START_SECONDS = 120


class Peer:
    """One MLflow server on one database, with a version to copy and models to copy it into."""

    def __init__(self, address: str):
        self._address = address
        self._targets = [f"target {number}" for number in range(CALLERS)]
        for name in ("source", *self._targets):
            self._post("registered-models/create", {"name": name})
        self._post("model-versions/create", {"name": "source", "source": "s3://bucket/model"})

    def measure(self, name: str, seconds: float) -> dict[str, Any]:
        """Return what one of the loads comes to. Raises Void if it does not count."""
        load = {COPY: self._copies, GET: self._gets}[name]()
        before = self._stored()
        measured = put({"address": self._address, "callers": load, "seconds": seconds})
        stored = self._stored() - before
        if measured["failures"]:
            raise Void(f"{name}: {measured['failures']} of {measured['calls']} calls failed")
        acknowledged = measured["calls"] + measured["warm_up"] if name == COPY else 0
        if stored != acknowledged:
            raise Void(f"{name}: {acknowledged} copies were acknowledged, and {stored} are stored")
        latencies = measured["milliseconds"]
        return {
            "per_second": measured["calls"] / measured["seconds"],
            **{f"p{share:g}": latencies[int(len(latencies) * share / 100)] for share in (50, 99, 99.9)},
            "calls": measured["calls"],
            "stored": stored,
            "generator_share": measured["processor_seconds"] / measured["seconds"],
        }

    def _copies(self) -> list[list[dict[str, Any]]]:
        # As AbstractStore.copy_model_version does: it creates the target, which is there already, and then the version.
        return [
            [
                _call("POST", "registered-models/create", {"name": target}, good=400),
                _call("POST", "model-versions/create", {"name": target, "source": "models:/source/1"}),
            ]
            for target in self._targets
        ]

    def _gets(self) -> list[list[dict[str, Any]]]:
        return [[_call("GET", "model-versions/get?name=source&version=1", None)]] * CALLERS

    def _stored(self) -> int:
        """How many versions the targets have: numbers are given without gaps."""
        found = 0
        for target in self._targets:
            path = f"registered-models/get?name={target.replace(' ', '%20')}"
            with urllib.request.urlopen(f"http://{self._address}{_API}/{path}") as answer:
                model = json.load(answer)["registered_model"]
            found += sum(int(version["version"]) for version in model.get("latest_versions", ()))
        return found

    def _post(self, path: str, body: dict[str, Any]) -> None:
        request = urllib.request.Request(
            f"http://{self._address}{_API}/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()


@contextmanager
def peer(folder: Path, database_url: str | None) -> Iterator[Peer]:
    """Have an MLflow server meanwhile, on one worker."""
    program = _installed()
    folder.mkdir()
    address = f"127.0.0.1:{unused_port()}"
    host, _, port = address.rpartition(":")
    url = database_url or f"sqlite:///{folder / 'mlflow.db'}"
    options = ["--backend-store-uri", url, "--artifacts-destination", str(folder / "artifacts")]
    options += ["--host", host, "--port", port, "--workers", "1", "--uvicorn-opts", _KEEPS_CONNECTIONS]
    environment = {**os.environ, **_IN_ITS_FAVOUR, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log, on_processors(None, 1):
        process = subprocess.Popen(
            [program, "server", *options],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_up(address, process, folder / "log")
        yield Peer(address)
    finally:
        _end(process)


def _wait_until_up(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://{address}/health").close()
        except urllib.error.URLError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"MLflow did not start:\n{log.read_text()}") from None
            time.sleep(0.2)
        else:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and the processes that it started."""
    if process.poll() is None:
        server = psutil.Process(process.pid)
        for each in (*server.children(recursive=True), server):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


def _installed() -> Path:
    """The mlflow command, in an environment of its own: it shares hardly a version with ours."""
    home = BUILD / "mlflow"
    program, done = home / "bin/mlflow", home / "installed"
    if not (done.exists() and done.read_text().split() == list(REQUIREMENTS)):
        print("installing MLflow, which takes minutes", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run(
            [home / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
            check=True,
        )
        done.write_text("\n".join(REQUIREMENTS))
    return program


def _call(method: str, path: str, body: dict[str, Any] | None, good: int = 200) -> dict[str, Any]:
    data = b"" if body is None else json.dumps(body).encode()
    return {"method": method, "path": f"{_API}/{path}", "body": base64_of(data), "good": good}
