"""What one caller with 300 calls under way costs the others: which of their calls are refused, and how long they take.

    python -m bench.greed [--rounds N] [--seconds S] [--only reads,promotions,mix,http]

Slices in which the greedy caller asks as fast as it can, refused or not, take turns with quiet ones, on one server. The
server has one processor, and those who call have another. It ends with 1 if another caller was refused anything, or
waited for more than three times as long as in the quiet slices.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from bench.machine import on_processors
from bench.sampler import Sample, sampling
from bench.tools import Tool, find_h2load
from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from modelregistry.v1.model_pb2 import Model, ModelVersion
from tests.builders import FOLDER
from tests.processes import Server
from tests.rpc.harness import User, path_of, request_of

UNDER_WAY = 300
# A server lets a connection have 250.
CONNECTIONS = 3
AT_MOST = 3.0
GREEDY, OTHER = "greedy", "other"
READ, PROMOTE = "GetModelVersion", "PromoteVersion"
# Of one slice, before anything counts.
_WARM_UP_SECONDS = 0.6
_PAUSE_SECONDS = 0.004

# What the greedy caller asks for; over HTTP it reads.
MIXES = {"reads": (READ,), "promotions": (PROMOTE,), "mix": (READ, PROMOTE), "http": ()}


@dataclass
class Measured:
    """How long the calls of the other caller took, in milliseconds, and how often which status came."""

    milliseconds: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Take in what a slice came to."""
        self.milliseconds += [answer.milliseconds for answer in sample.of(grpc.StatusCode.OK)]
        self.codes.update(sample.codes)

    def percentile(self, share: float) -> float:
        """How long so large a share of the calls took at most."""
        return sorted(self.milliseconds)[int(len(self.milliseconds) * share)]

    @property
    def refused(self) -> int:
        """How many calls were not served."""
        return self.codes.total() - self.codes["OK"]


class Registry:
    """A server, and what two callers do with it, each in a model of its own."""

    def __init__(self, server: Server, tool: Tool, folder: Path):
        self._server, self._tool, self._folder = server, tool, folder
        self._stack = ExitStack()
        channel = self._stack.enter_context(grpc.insecure_channel(server.address))
        admin = server.user(channel)
        self.tokens = {name: server.token(name) for name in (GREEDY, OTHER)}
        self._version: dict[str, ModelVersion] = {}
        self.requests: dict[tuple[str, str], bytes] = {}
        for name in (GREEDY, OTHER):
            admin("GrantRole", resource_rid=FOLDER, principal=f"user:{name}", role=ROLE_OWNER)
            user: User = server.user(channel, name)
            source: ModelVersion = user.create_version(user.create_model(f"source of {name}"))
            target: Model = user.create_model(f"target of {name}")
            self._version[name] = source
            named = {"model_rid": source.model_rid, "model_version_rid": source.rid}
            self.requests[name, READ] = request_of(READ, **named).SerializeToString()
            promotion = request_of(PROMOTE, model_rid=target.rid, source_model_version_rid=source.rid, preview=True)
            self.requests[name, PROMOTE] = promotion.SerializeToString()

    def close(self) -> None:
        """Hang up."""
        self._stack.close()

    @contextmanager
    def greed(self, mix: str, seconds: float) -> Iterator[None]:
        """Let the greedy caller have its calls under way."""
        with on_processors(1):
            processes = [*self._loads(mix, seconds)]
        try:
            time.sleep(_WARM_UP_SECONDS)
            yield
            ended = [process.args for process in processes if process.poll() is not None]
            if ended:
                raise RuntimeError(f"the load did not last as long as the slice: {ended}")
        finally:
            for process in processes:
                process.kill()
                process.wait()

    def sample(self, seconds: float) -> dict[str, Sample]:
        """Let the other caller ask for so long."""
        samples = {}
        with ExitStack() as stack:
            for rpc in (READ, PROMOTE):
                asked = [self.requests[OTHER, rpc]]
                sampled = sampling(self._server.address, path_of(rpc), asked, self.tokens[OTHER], pause=_PAUSE_SECONDS)
                samples[rpc] = stack.enter_context(sampled)
            time.sleep(seconds)
        return samples

    def _loads(self, mix: str, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
        if mix == "http":
            version = self._version[GREEDY]
            path = f"/api/v2/models/{version.model_rid}/versions/{version.rid}"
            yield self._load(seconds, f"{self._server.url}{path}", "--h1", f"--clients={UNDER_WAY}")
            return
        rpcs = MIXES[mix]
        for rpc in rpcs:
            body, request = self._folder / f"{rpc}.body", self.requests[GREEDY, rpc]
            body.write_bytes(struct.pack(">BL", 0, len(request)) + request)
            streams = UNDER_WAY // CONNECTIONS // len(rpcs)
            yield self._load(
                seconds,
                f"http://{self._server.address}{path_of(rpc)}",
                f"--clients={CONNECTIONS}",
                f"--max-concurrent-streams={streams}",
                f"--data={body}",
                "--header=content-type: application/grpc",
                "--header=te: trailers",
            )

    def _load(self, seconds: float, url: str, *options: str) -> subprocess.Popen[bytes]:
        duration = f"--duration={int(2 * seconds + 10)}"
        credentials = f"--header=authorization: Bearer {self.tokens[GREEDY]}"
        # It must not keep the other caller from its processor.
        return subprocess.Popen(
            [self._tool.program, *options, duration, credentials, url],
            env=self._tool.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.nice(10),
        )


Found = dict[str, tuple[Measured, Measured]]


def measure(folder: Path, mix: str, rounds: int, seconds: float) -> Found:
    """Return what the other caller's calls of each RPC came to in quiet slices, and in greedy ones."""
    tool = find_h2load()
    with on_processors(None, 1):
        server = Server(folder / mix, "--workers", "1")
    with server, on_processors(1):
        registry = Registry(server, tool, folder)
        try:
            return _in_turns(registry, mix, rounds, seconds)
        finally:
            registry.close()


def _in_turns(registry: Registry, mix: str, rounds: int, seconds: float) -> Found:
    found = {rpc: (Measured(), Measured()) for rpc in (READ, PROMOTE)}
    registry.sample(_WARM_UP_SECONDS)
    for _ in range(rounds):
        quiet = registry.sample(seconds)
        with registry.greed(mix, seconds):
            greedy = registry.sample(seconds)
        for rpc, measured in found.items():
            measured[0].add(quiet[rpc])
            measured[1].add(greedy[rpc])
    return found


def ratio(quiet: Measured, greedy: Measured) -> float:
    """How many times as long the slowest calls took."""
    return greedy.percentile(0.99) / quiet.percentile(0.99)


def rows(mix: str, found: Found) -> list[str]:
    """Return what was measured as rows of Markdown."""
    lines = []
    for rpc, (quiet, greedy) in found.items():
        times = (each.percentile(share) for each in (quiet, greedy) for share in (0.5, 0.99))
        refused = f"{greedy.refused} of {greedy.codes.total()}"
        cells = [mix, rpc, refused, *(f"{each:.1f}" for each in times), f"{ratio(quiet, greedy):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default=",".join(MIXES))
    options = parser.parse_args()
    is_good = True
    print("| greedy | the other's call | refused | quiet p50 ms | p99 | greedy p50 | p99 | p99 / quiet |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for mix in options.only.split(","):
            found = measure(Path(folder), mix, options.rounds, options.seconds)
            print("\n".join(rows(mix, found)), flush=True)
            is_good &= all(ratio(*pair) <= AT_MOST and not pair[1].refused for pair in found.values())
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
