"""How fast the registry is as it fills: p50 and p99 of each unary RPC at 10³ to 10⁶ versions, in turns.

    python -m bench.growth [--sizes N,…] [--database sqlite|postgresql] [--only PART OF A NAME] [--rounds N] [--calls N]
                           [--readme]

A server for each size and kind of database runs all the time. A round makes the same calls at each size, in turns, and
takes the ratio to the smallest size within the round; the tables show the median of the rounds. Any call that fails,
any page that is not the last one although it should be, and any version that is not stored in the end, ends the run
with code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil

from bench.command import carry_out
from bench.databases import KINDS, databases
from bench.growth.calls import CALLS, Call
from bench.growth.fill import DEPTH, Filled, fill
from bench.growth.report import tables, write_readme
from bench.machine import machine
from bench.stock import CALLER
from bench.tools import BUILD
from bench.void import Void
from tests.processes import Server, run
from tests.rpc.harness import User

SIZES = (1_000, 10_000, 100_000, 1_000_000)
# A registry that has been asked for so long in a round, and so often, is not asked again in it.
LONGEST_MS = 3_000
FEWEST = 3


def main() -> None:
    """Fill, measure, check and print."""
    carry_out(_options(), _measure, tables, write_readme)


@dataclass
class Registry:
    """A server on a filled database."""

    kind: str
    filled: Filled
    server: Server
    user: User
    admin: User
    start_seconds: float
    memory_at_start: int
    chance: random.Random = field(default_factory=lambda: random.Random(11))
    added: int = 0  # to the deep branch

    def ask(self, call: Call) -> float:
        """Make a call, and return how long it took, in milliseconds. Raises Void and grpc.RpcError."""
        fields = call.fields(self.filled, self.chance)
        begin = time.perf_counter()
        user = self.admin if call.is_admins else self.user
        answer = user(call.rpc, **fields)
        milliseconds = (time.perf_counter() - begin) * 1000
        if call.is_last_page and answer.HasField("next_page_token"):
            raise Void(f"{call.name}, at {self.filled.size} versions: not the last page")
        self.added += call.adds
        if call.undo is not None:
            call.undo(user, self.filled, answer)
        return milliseconds

    def check(self) -> None:
        """Raise Void unless the deep branch holds exactly what was put into it."""
        stored = self.user("GetBranch", model_rid=self.filled.deep_model).version_count
        if stored != self.filled.size + self.added:
            raise Void(f"{self.filled.size + self.added} versions were put into the deep branch, {stored} are stored")

    def memory(self) -> int:
        """What the server's processes hold of memory, in bytes: what they share is counted once."""
        server = psutil.Process(self.server.process.pid)
        return sum(each.memory_full_info().pss for each in (server, *server.children(recursive=True)))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    kinds = KINDS if options.database is None else (options.database,)
    calls = [call for call in CALLS if options.only in call.name]
    latencies: dict[str, dict[str, dict[int, list[list[float]]]]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelregistry-growth-")))
        registries: list[Registry] = []
        for kind in kinds:
            new_database = stack.enter_context(databases(kind))
            for size in options.sizes:
                url = new_database() or f"sqlite:///{folder}/{size}.db"
                registries.append(
                    stack.enter_context(_registry(kind, folder / f"{kind}-{size}", url, size, options.starts))
                )
        for registry in registries:  # what is cold at first is not measured
            for call in calls:
                registry.ask(call)
        for number in range(options.rounds):
            for call in calls:
                for registry, found in zip(registries, _in_turns(registries, call, options.calls), strict=True):
                    by_size = latencies.setdefault(registry.kind, {}).setdefault(call.name, {})
                    by_size.setdefault(registry.filled.size, []).append(found)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        for registry in registries:
            registry.check()
        servers = [
            {
                "kind": each.kind,
                "size": each.filled.size,
                "start_seconds": each.start_seconds,
                "memory_at_start": each.memory_at_start,
                "memory_at_end": each.memory(),
            }
            for each in registries
        ]
    return {
        "machine": machine(),
        "rounds": options.rounds,
        "calls": options.calls,
        "servers": servers,
        "results": {
            kind: {name: _summary(by_size) for name, by_size in by_call.items()} for kind, by_call in latencies.items()
        },
    }


def _in_turns(registries: list[Registry], call: Call, times: int) -> list[list[float]]:
    """Make a call so often at each registry, one after the other, and return the latencies of each.

    Where it takes long, fewer calls must do, and a single one where it is known to grow.
    """
    fewest = FEWEST if call.goal else 1
    found: list[list[float]] = [[] for _ in registries]
    for _ in range(times):
        for registry, latencies in zip(registries, found, strict=True):
            if len(latencies) < fewest or sum(latencies) < LONGEST_MS:
                latencies.append(registry.ask(call))
    return found


def _summary(by_size: dict[int, list[list[float]]]) -> dict[int, dict[str, float]]:
    """What the rounds found for one call at each size."""
    smallest = [statistics.median(each) for each in by_size[min(by_size)]]
    summary = {}
    for size, rounds in by_size.items():
        everything = sorted(latency for each in rounds for latency in each)
        ratios = [statistics.median(each) / base for each, base in zip(rounds, smallest, strict=True)]
        summary[size] = {
            "p50": statistics.median(everything),
            "p99": everything[int(len(everything) * 0.99)],
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    return summary


@contextlib.contextmanager
def _registry(kind: str, folder: Path, url: str, size: int, times: int) -> Iterator[Registry]:
    """Fill a database, and serve it; how long a server takes to start is the median of some starts."""
    migrated = run("migrate", "--database-url", url)
    if migrated.returncode:
        raise RuntimeError(migrated.stderr)
    begin = time.monotonic()
    filled = fill(url, size)
    print(f"{kind}: {size} versions in {time.monotonic() - begin:.0f} s", file=sys.stderr)
    arguments = ["--database-url", url, "--workers", "1"]
    starts = []
    for _ in range(times - 1):
        begin = time.monotonic()
        with Server(folder, *arguments):
            starts.append(time.monotonic() - begin)
    begin = time.monotonic()
    with Server(folder, *arguments) as server, grpc.insecure_channel(server.address) as channel:
        starts.append(time.monotonic() - begin)
        registry = Registry(
            kind, filled, server, server.user(channel, CALLER), server.user(channel), statistics.median(starts), 0
        )
        registry.memory_at_start = registry.memory()
        yield registry


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=_sizes, default=SIZES)
    parser.add_argument("--database", choices=KINDS)
    parser.add_argument("--only", default="", help="calls whose names have this in them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=50, help="of each RPC at each size in each round")
    parser.add_argument("--starts", type=int, default=3, help="of each server, of which the median is shown")
    parser.add_argument("--readme", action="store_true", help="put the table and the plot into bench/README.md")
    parser.add_argument("--out", type=Path, default=BUILD / "growth.json")
    return parser.parse_args()


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(map(int, text.split(",")))
    if any(size < SIZES[0] or size % (2 * DEPTH) for size in sizes):
        raise argparse.ArgumentTypeError(f"sizes are multiples of {2 * DEPTH}, from {SIZES[0]}")
    return sizes


if __name__ == "__main__":
    main()
