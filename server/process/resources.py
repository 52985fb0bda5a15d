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

# What connections of one protocol may take of the open files. The rest is for the database, model files, and logs.
FILE_SHARE = 4
# The most that macOS takes for a limit of open files, whatever it says.
MACOS_MOST_FILES = 10240

# glibc keeps free memory between what is in use, and gives back only the end of its heaps by itself. `malloc_trim`
# gives back the rest, and takes milliseconds.
TRIM_SECONDS = 20.0
# By how much memory must have grown for that, from the least that the process ever had. What it had at the last trim is
# no measure: that may have been in use.
TRIM_GROWTH_BYTES = 32 * 2**20

# Of control groups, version 2: how many microseconds of processor time in how many, or "max".
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_RESIDENT = Path("/proc/self/statm")


def keep_files_private() -> None:
    """Let no other user read or enter what this process makes, nor what those do that it forks."""
    os.umask(0o077)


def default_workers() -> int:
    """Return how many processors' worth of time there is, at least one."""
    return max(1, math.ceil(min(len(_usable_processors()), _cpu_quota())))


def pin_to_processor(worker: int, workers: int) -> None:
    """Keep this process to one processor, before it makes threads.

    Threads that pass a lock around are half as fast on several. Only where each processor gets as many workers, and
    all of its time is ours to use: elsewhere, others may have chosen the same ones, and the system knows better.
    """
    usable = sorted(_usable_processors())
    if hasattr(os, "sched_setaffinity") and workers % len(usable) == 0 and _cpu_quota() >= len(usable):
        os.sched_setaffinity(0, {usable[worker % len(usable)]})


def share_of_files() -> int:
    """Return how many connections of one protocol this process has files for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system's word for "as many as you like" is a number, and on some systems a negative one.
    return 2**31 - 1 if soft == resource.RLIM_INFINITY else max(1, soft // FILE_SHARE)


def raise_file_limit() -> None:
    """Let this process, and those that it forks, open as many files as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        if soft < MACOS_MOST_FILES:
            resource.setrlimit(resource.RLIMIT_NOFILE, (MACOS_MOST_FILES, hard))


def trim_memory() -> None:
    """Have a thread return free memory to the system now and then, where glibc manages it."""
    trim = _malloc_trim()
    if trim is not None:
        threading.Thread(target=_trim_now_and_then, args=(trim,), name="memory", daemon=True).start()


def _trim_now_and_then(trim: Callable[[int], int]) -> None:
    least: int | None = None
    never = threading.Event()
    while not never.wait(TRIM_SECONDS):
        with contextlib.suppress(OSError):  # No file can be opened just now.
            if least is None or _resident_bytes() > least + TRIM_GROWTH_BYTES:
                trim(0)
                now = _resident_bytes()
                least = now if least is None else min(least, now)


def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    # Other C libraries have no such function.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def _resident_bytes() -> int:
    return int(_RESIDENT.read_text().split()[1]) * resource.getpagesize()


def _usable_processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cpu_quota() -> float:
    try:
        time, _, period = _CPU_QUOTA.read_text().partition(" ")
        return int(time) / int(period)
    except (OSError, ValueError):
        return math.inf
