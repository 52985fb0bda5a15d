"""How much memory the workers of a server have, as the system counts it: their resident set, in MiB."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.processes import Server

# What no stranger makes a worker take, and what it may keep afterwards beyond what it had.
MOST = 500
KEPT = 64
RECOVERY_SECONDS = 60


def resident(server: Server) -> list[float]:
    """What each worker has now."""
    return [_mib(worker.pid, "smaps_rollup", "Rss") for worker in server.workers()]


def peak(server: Server) -> list[float]:
    """The most that each worker has had since it was started."""
    return [_mib(worker.pid, "status", "VmHWM") for worker in server.workers()]


def afterwards(server: Server, before: list[float]) -> list[float]:
    """What each worker has once it is about what it had before, and in a minute at the latest."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while not is_back(now := resident(server), before) and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def is_back(now: list[float], before: list[float]) -> bool:
    """Whether each worker has about what it had before."""
    return all(mib <= then + KEPT for mib, then in zip(now, before, strict=True))


def _mib(pid: int, file: str, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024
