"""What thousands of attackers cost others: which calls are served, how long they take, and the memory of the workers.

    python -m bench.siege [--rounds N]

In each round the attackers come, calls of each kind are made, the attackers leave, and the same calls are made again.
None of the attackers has a token; those that the server turns away come again, at a bounded rate. What it costs a
worker to refuse one call is measured alone, without a token and with made-up ones.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.processes import Server
from tests.siege import memory
from tests.siege.attackers import (
    CHECK,
    REFLECTION,
    WATCH,
    Attack,
    besieged,
    half_messages,
    half_open,
    silent,
    unfinished_posts,
    watches,
)
from tests.siege.honest import KINDS, Honest, Served

WORKERS = 2
HALF_OPEN, HALF_MESSAGES, WATCHES, UNFINISHED_POSTS, IDLE = 10_000, 1_000, 1_000, 2_000, 4_000
# As operators are advised to.
_FILES = 65_536
_REFUSED_PER_SECOND, _REFUSING_SECONDS = 400, 10
_HALF_OPEN_RPCS = ("GetModelVersion", "PromoteVersion", "CreateModelVersion", "UploadModelFiles", "DownloadModelFiles")
_HALF_OPEN = (*_HALF_OPEN_RPCS, CHECK, WATCH, REFLECTION)


@dataclass
class Measured:
    """What came of the calls in each round, besieged and quiet; and memory in MiB, worker by worker."""

    before: list[float]
    besieged: list[dict[str, Served]] = field(default_factory=list)
    quiet: list[dict[str, Served]] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)


def measure(folder: Path, rounds: int) -> Measured:
    """Besiege a server of two workers, and leave it alone again, in turns."""
    with _files_allowed(), Server(folder / "server", MODELREGISTRY_WORKERS=str(WORKERS)) as server:
        honest = Honest(server)
        honest.calls()
        measured = Measured(memory.resident(server))
        for _ in range(rounds):
            with besieged(*attacks(server)) as siege:
                measured.besieged.append(honest.calls())
                measured.ends += sum(siege.ends(), Counter())
            measured.peak = memory.peak(server)
            measured.after = memory.afterwards(server, measured.before)
            measured.quiet.append(honest.calls())
    return measured


def attacks(server: Server) -> list[Attack]:
    """Return all attackers, of all kinds."""
    grpc, http = server.address, server.url.partition("://")[2]
    return [
        *(half_open(grpc, each, HALF_OPEN // len(_HALF_OPEN)) for each in _HALF_OPEN),
        half_messages(grpc, "PromoteVersion", HALF_MESSAGES),
        watches(grpc, WATCHES),
        unfinished_posts(http, "/api/v2/models", UNFINISHED_POSTS),
        silent(http, IDLE),
    ]


def cost_of_refusals(folder: Path) -> dict[str, float]:
    """Return how much CPU time the refusal of one call takes, in microseconds, for each kind of stranger."""
    costs = {}
    with Server(folder / "refusing", MODELREGISTRY_WORKERS="1") as server:
        [worker] = server.workers()
        strangers: dict[str, dict[str, Any]] = {
            "no token": {},
            "a made-up token": {"token": server.token("mallory"), "forges": True},
        }
        for name, shown in strangers.items():
            attack = half_open(server.address, "GetModelVersion", 50, again_per_second=_REFUSED_PER_SECOND, **shown)
            with besieged(attack) as siege:
                refused, used = siege.ends()[0]["UNAUTHENTICATED"], sum(worker.cpu_times()[:2])
                time.sleep(_REFUSING_SECONDS)
                refused = siege.ends()[0]["UNAUTHENTICATED"] - refused
                used = sum(worker.cpu_times()[:2]) - used
            costs[name] = used / refused * 1e6
    return costs


def tables(measured: Measured) -> str:
    """Return what was measured as tables of Markdown."""
    lines = [
        "| call | besieged | quiet | besieged p50 ms | quiet p50 ms | besieged p99 ms | quiet p99 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        under, quiet = (_together(rounds, kind) for rounds in (measured.besieged, measured.quiet))
        cells = [kind, str(under), str(quiet)]
        cells += [f"{each.percentile(share):.1f}" for share in (0.5, 0.99) for each in (under, quiet)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| worker | MiB before | at most | afterwards |", "|---|---|---|---|"]
    for number, each in enumerate(zip(measured.before, measured.peak, measured.after, strict=True), start=1):
        lines.append(f"| {number} | {' | '.join(f'{mib:.0f}' for mib in each)} |")
    ends = ", ".join(f"{how}: {count}" for how, count in measured.ends.most_common())
    return "\n".join([*lines, "", f"How the server ended what the attackers had: {ends or 'not at all'}."])


def _together(rounds: list[dict[str, Served]], kind: str) -> Served:
    found = [each[kind] for each in rounds]
    failures = (served.failure for served in found if served.failure)
    return Served([each for served in found for each in served.milliseconds], next(failures, None))


@contextmanager
def _files_allowed() -> Iterator[None]:
    """Let what is started meanwhile open as many files as operators are advised to allow, or as this machine does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, max(_FILES, hard)))
    except ValueError:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(tables(measure(Path(folder), options.rounds)))
        costs = (f"with {name} {cost:.0f}" for name, cost in cost_of_refusals(Path(folder)).items())
        print(f"Refusing one call costs a worker, in µs of CPU: {', '.join(costs)}.")


if __name__ == "__main__":
    main()
