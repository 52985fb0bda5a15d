"""The processors that this process may use, and how worker processes are spread over them."""

from __future__ import annotations

import math
import os
from pathlib import Path

# Of control groups, version 2: how many microseconds of processor time in how many, or "max".
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_workers() -> int:
    """Return how many processors' worth of time there is, at least one."""
    return max(1, math.ceil(min(len(_usable()), _quota())))


def settle(worker: int, workers: int) -> None:
    """Keep this process to one processor, before it makes threads.

    Threads that pass a lock around are half as fast on several. Only where each processor gets as many workers, and
    all of its time is ours to use: elsewhere, others may have chosen the same ones, and the system knows better.
    """
    usable = sorted(_usable())
    if hasattr(os, "sched_setaffinity") and workers % len(usable) == 0 and _quota() >= len(usable):
        os.sched_setaffinity(0, {usable[worker % len(usable)]})


def _usable() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quota() -> float:
    try:
        time, _, period = _QUOTA.read_text().partition(" ")
        return int(time) / int(period)
    except (OSError, ValueError):
        return math.inf
