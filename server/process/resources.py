"""What a process takes of its machine: a processor, open files, and memory, which it gives back."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

# Processors


# Of control groups, version 2: how many microseconds of processor time in how many, or "max".
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_workers() -> int:
    """Return how many processors' worth of time there is, at least one."""
    return max(1, math.ceil(min(len(_usable()), _quota())))


def pin_to_processor(worker: int, workers: int) -> None:
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


# Files


# What connections of one protocol may take of them. The rest is for the database, for model files, and for logs.
SHARE = 4
# Where the system promises any number, but takes none above this one (macOS).
MOST = 10240


def share_of_files() -> int:
    """Return how many connections of one protocol this process has files for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system's word for "as many as you like" is a number, and on some systems a negative one.
    return 2**31 - 1 if soft == resource.RLIM_INFINITY else max(1, soft // SHARE)


def raise_file_limit() -> None:
    """Let this process, and those that it forks, open as many files as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        if soft < MOST:
            resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, hard))


# Memory


# glibc keeps free memory between what is in use, and gives back only the end of its heaps by itself.
# To look for it takes milliseconds.
INTERVAL_SECONDS = 20.0
# How much more memory than the least that it ever had a process must have for that. What it had after the last look is
# no measure: that may have been in use.
GROWTH_BYTES = 32 * 2**20

_RESIDENT = Path("/proc/self/statm")


def give_back_what_is_free() -> None:
    """Have a thread return free memory to the system now and then, where there is a glibc to ask."""
    trim = _trim()
    if trim is not None:
        threading.Thread(target=_follow, args=(trim,), name="memory", daemon=True).start()


def _follow(trim: Callable[[int], int]) -> None:
    least: int | None = None
    never = threading.Event()
    while not never.wait(INTERVAL_SECONDS):
        with contextlib.suppress(OSError):  # No file can be opened just now.
            if least is None or _resident_bytes() > least + GROWTH_BYTES:
                trim(0)
                now = _resident_bytes()
                least = now if least is None else min(least, now)


def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    # Other C libraries have no such function.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def _resident_bytes() -> int:
    return int(_RESIDENT.read_text().split()[1]) * resource.getpagesize()
