"""How fast HTTP is, measured against gRPC: the same server, the same calls, in turns.

    python -m bench.http_against_grpc [--rounds N] [--seconds S]

Prints the table that bench/README.md shows: a get and a promotion, on SQLite in its usual durable mode. A round
measures each of the four loads once; the ratio is taken within a round, and the table shows the median of the rounds.
Afterwards the database must hold every promotion that was acknowledged, and no other.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from modelregistry.v1.model_service_pb2 import GetModelVersionRequest, PromoteVersionRequest

COMMAND = Path(sys.executable).with_name("modelregistry")
CALLERS = 8
SERVICE = "/modelregistry.v1.ModelService"


class Server:
    """A server with a database of its own, which is stopped at the end of a `with` statement."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._variables = {name: value for name, value in os.environ.items() if not name.startswith("MODELREGISTRY_")}
        self._variables |= {"MODELREGISTRY_LISTEN": "127.0.0.1:0", "MODELREGISTRY_HTTP_LISTEN": "127.0.0.1:0"}
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [COMMAND, "serve"],
                cwd=folder,
                env=self._variables,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout
        self.grpc = self.process.stdout.readline().removeprefix("listening on ").strip()
        self.http = re.sub(".*//", "", self.process.stdout.readline()).strip()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def prepare(self) -> None:
        """Put two models and a version into the database."""
        self.token = self.run("token").strip()
        self._variables |= {"MODELREGISTRY_TARGET": self.grpc, "MODELREGISTRY_TOKEN": self.token}
        promotion = json.loads(self.run("demo", "--prepare"))
        self.target, self.source = promotion["model_rid"], promotion["source_model_version_rid"]
        self.version = json.loads(self.run("promote", self.source, self.target))["rid"]

    def run(self, *arguments: str) -> str:
        """Call a command, and return what it prints."""
        return subprocess.check_output(
            [COMMAND, *arguments], cwd=self._folder, env=self._variables, text=True, stderr=subprocess.DEVNULL
        )

    def loads(self) -> dict[str, dict[str, Any]]:
        """Return the four loads by name."""
        path = f"/api/v2/models/{self.target}"
        get = GetModelVersionRequest(model_rid=self.target, model_version_rid=self.version)
        promote = PromoteVersionRequest(model_rid=self.target, source_model_version_rid=self.source, preview=True)
        body = json.dumps({"sourceModelVersionRid": self.source}).encode()
        return {
            "gRPC get": self._grpc("GetModelVersion", get.SerializeToString()),
            "HTTP get": self._http("GET", f"{path}/versions/{self.version}", b""),
            "gRPC promote": self._grpc("PromoteVersion", promote.SerializeToString()),
            "HTTP promote": self._http("POST", f"{path}/promoteVersion?preview=true", body),
        }

    def _grpc(self, rpc: str, body: bytes) -> dict[str, Any]:
        return {"protocol": "grpc", "address": self.grpc, "method": f"{SERVICE}/{rpc}", "body": _base64(body)}

    def _http(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        return {"protocol": "http", "address": self.http, "method": method, "path": path, "body": _base64(body)}

    def measure(self, load: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Put one load on the server, from another process."""
        asked = {**load, "token": self.token, "callers": CALLERS, "seconds": seconds}
        answer = subprocess.check_output([sys.executable, "-m", "bench.load"], input=json.dumps(asked), text=True)
        measured: dict[str, Any] = json.loads(answer)
        if measured["failures"]:
            raise SystemExit(f"{measured['failures']} of {measured['calls']} calls failed")
        return measured


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load in each round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server:
        server.prepare()
        rounds = [
            {name: server.measure(load, options.seconds) for name, load in server.loads().items()}
            for _ in range(options.rounds)
        ]
        promotions = [one[name] for one in rounds for name in ("gRPC promote", "HTTP promote")]
        acknowledged = 1 + sum(one["calls"] + one["warm_up"] for one in promotions)
        stored = int(json.loads(server.run("get-branch", server.target))["versionCount"])
    if stored != acknowledged:
        raise SystemExit(f"{acknowledged} promotions were acknowledged, {stored} are stored")
    print("| call | gRPC calls/s | HTTP calls/s | HTTP / gRPC | lowest to highest | gRPC p99 ms | HTTP p99 ms |")
    print("|---|---|---|---|---|---|---|")
    for call in ("get", "promote"):
        print(_row(call, [one[f"gRPC {call}"] for one in rounds], [one[f"HTTP {call}"] for one in rounds]))
    print(f"\n{acknowledged} promotions acknowledged, {stored} stored.")


def _row(call: str, grpc: list[dict[str, Any]], http: list[dict[str, Any]]) -> str:
    ratios = sorted(_rate(there) / _rate(here) for here, there in zip(grpc, http, strict=True))
    cells = [
        call,
        f"{statistics.median(map(_rate, grpc)):.0f}",
        f"{statistics.median(map(_rate, http)):.0f}",
        f"**{statistics.median(ratios):.2f}**",
        f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
        f"{statistics.median(map(_p99, grpc)):.0f}",
        f"{statistics.median(map(_p99, http)):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _rate(measured: dict[str, Any]) -> float:
    return float(measured["calls"] / measured["seconds"])


def _p99(measured: dict[str, Any]) -> float:
    latencies = measured["milliseconds"]
    return float(latencies[int(len(latencies) * 0.99)])


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


if __name__ == "__main__":
    main()
