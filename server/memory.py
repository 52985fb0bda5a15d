"""What was freed goes back to the system, so that a worker becomes small again when what made it large is over."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

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
