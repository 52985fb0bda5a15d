"""How fast HTTP is, measured against gRPC: the same server, the same calls, in turns.

    python -m bench.http_against_grpc [--rounds N] [--seconds S]

Prints the table that bench/README.md shows: a get and a promotion, on SQLite in its usual durable mode. A round
measures each of the four loads once; the ratio is taken within a round, and the table shows the median of the rounds.
Afterwards the database must hold every promotion that was acknowledged, and no other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench.load import base64_of, put
from modelregistry.v1.model_service_pb2 import GetModelVersionRequest, PromoteVersionRequest
from tests.processes import Server

CALLERS = 8
SERVICE = "/modelregistry.v1.ModelService"


class Measured:
    """A server with two models and a version, and the loads that are put on it."""

    def __init__(self, server: Server):
        self._server = server
        self._token = server.token()
        promotion = json.loads(server.run("demo", "--prepare").stdout)
        self.target, self._source = promotion["model_rid"], promotion["source_model_version_rid"]
        self._version = server.json("promote", self._source, self.target)["rid"]

    def loads(self) -> dict[str, dict[str, Any]]:
        """Return the four loads by name."""
        path = f"/api/v2/models/{self.target}"
        get = GetModelVersionRequest(model_rid=self.target, model_version_rid=self._version)
        promote = PromoteVersionRequest(model_rid=self.target, source_model_version_rid=self._source, preview=True)
        body = json.dumps({"sourceModelVersionRid": self._source}).encode()
        return {
            "gRPC get": self._grpc("GetModelVersion", get.SerializeToString()),
            "HTTP get": self._http("GET", f"{path}/versions/{self._version}", b""),
            "gRPC promote": self._grpc("PromoteVersion", promote.SerializeToString()),
            "HTTP promote": self._http("POST", f"{path}/promoteVersion?preview=true", body),
        }

    def _grpc(self, rpc: str, body: bytes) -> dict[str, Any]:
        call = {"method": f"{SERVICE}/{rpc}", "body": base64_of(body)}
        return {"protocol": "grpc", "address": self._server.address, "callers": [[call]] * CALLERS}

    def _http(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        call = {"method": method, "path": path, "body": base64_of(body)}
        address = self._server.url.removeprefix("http://")
        return {"protocol": "http", "address": address, "callers": [[call]] * CALLERS}

    def measure(self, load: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Put one load on the server, from another process."""
        measured = put({**load, "token": self._token, "seconds": seconds})
        if measured["failures"]:
            raise SystemExit(f"{measured['failures']} of {measured['calls']} calls failed")
        return measured


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load in each round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "server") as server:
        site = Measured(server)
        rounds = [
            {name: site.measure(load, options.seconds) for name, load in site.loads().items()}
            for _ in range(options.rounds)
        ]
        promotions = [one[name] for one in rounds for name in ("gRPC promote", "HTTP promote")]
        acknowledged = 1 + sum(one["calls"] + one["warm_up"] for one in promotions)
        stored = int(server.json("get-branch", site.target)["versionCount"])
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


if __name__ == "__main__":
    main()
