"""Counting by processes that come and go, in files of a folder that they share.

Each has a place there, which is its own until it ends, however it ends: the kernel gives back the lock. Who takes the
place next goes on with the numbers that it finds, so that these never fall, and there are never more files than there
were processes at a time.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_LOCK = "place-{}.lock"
# As prometheus_client names them: of gauges that are only true while their process lives.
_MOMENTARY = "gauge_live*_{}.db"
_FILES = ("counter_{}.db", "gauge_livesum_{}.db", "histogram_{}.db")
# Of each file, and more than all methods, codes and errors together take. The library maps its files into memory, and
# a page that the disk then has no room for would end the process (SIGBUS), whatever it was doing.
RESERVED_BYTES = 2**20


class Place:
    """A place in a folder that no other living process has, with a number."""

    def __init__(self, folder: Path):
        """Raises OSError if the folder has no room for the numbers."""
        self.number, self._held = next(_free(folder))
        for left in folder.glob(_MOMENTARY.format(self.number)):
            left.unlink()
        for file in _FILES:
            _reserve(folder / file.format(self.number))


def files(folder: Path) -> list[str]:
    """Return the files that count: all but what is no longer true, since its process has ended."""
    dead = (number for number in _numbers(folder) if not _is_taken(folder, number))
    untrue = {left for number in dead for left in folder.glob(_MOMENTARY.format(number))}
    # One that is being made is empty at first.
    return [str(file) for file in folder.glob("*.db") if file not in untrue and file.stat().st_size]


def _reserve(file: Path) -> None:
    if not hasattr(os, "posix_fallocate"):  # On macOS.
        return
    opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(opened, 0, RESERVED_BYTES)
    finally:
        os.close(opened)


def _free(folder: Path) -> Iterator[tuple[int, IO[bytes]]]:
    for number in itertools.count():
        lock = (folder / _LOCK.format(number)).open("ab")
        if _take(lock, fcntl.LOCK_EX):
            yield number, lock
        lock.close()


def _numbers(folder: Path) -> Iterator[int]:
    return itertools.takewhile(lambda number: (folder / _LOCK.format(number)).exists(), itertools.count())


def _is_taken(folder: Path, number: int) -> bool:
    with (folder / _LOCK.format(number)).open("rb") as lock:
        return not _take(lock, fcntl.LOCK_SH)


def _take(lock: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
