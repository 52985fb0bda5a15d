"""How the C library keeps what was freed: so that a worker becomes small again when what made it large is over."""

from __future__ import annotations

import contextlib
import ctypes
import sys

# Of glibc's mallopt(3), by the names that it has there.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

# Blocks of this size, such as large messages, go back to the system as soon as they are free; glibc alone would raise
# the threshold to 32 MiB with the first of them.
LARGE_BYTES = 128 * 2**10
# What may stay free at the end of the heap.
KEPT_BYTES = 2**20
# Each of them keeps its own free blocks. By default there may be 8 for each processor.
ARENAS = 2


def give_back_what_is_free() -> None:
    """Have this process return free memory to the system; before it has threads, and where there is a glibc."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # Another C library keeps less by itself.
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in (
            (M_ARENA_MAX, ARENAS),
            (M_TRIM_THRESHOLD, KEPT_BYTES),
            (M_MMAP_THRESHOLD, LARGE_BYTES),
        ):
            mallopt(parameter, value)
