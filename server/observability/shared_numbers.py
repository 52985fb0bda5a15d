"""The numbers of the processes of one server, in a folder that they share: each writes its own and reads the others'.

Each process has a slot with a lock that it holds until it ends, however it ends. The process that takes a slot next
goes on from the numbers that it finds there. So counters never fall, and there are never more files than there were
processes at a time.
"""

from __future__ import annotations

import fcntl
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeAlias

# Of each metric, by the values of its labels.
Numbers: TypeAlias = dict[str, Counter[tuple[str, ...]]]


class Slot:
    """A slot in a folder that no other living process has."""

    def __init__(self, folder: Path):
        """Raises OSError if the folder cannot be written."""
        self._folder = folder
        self.number, self._held = next(_free(folder))

    def read(self) -> Numbers:
        """Return the numbers in this slot: at first, those of the process that had it before."""
        return _read(self._folder, self.number)

    def write(self, numbers: Numbers) -> None:
        """Replace the numbers in this slot, atomically. Raises OSError."""
        rows = {name: [[*labels, value] for labels, value in counted.items()] for name, counted in numbers.items()}
        new = self._folder / f"{self.number}.new"
        new.write_text(json.dumps(rows))
        new.replace(_file(self._folder, self.number))

    def read_others(self) -> Iterator[tuple[Numbers, bool]]:
        """Yield the numbers in each other slot, and whether its process lives."""
        for number in itertools.count():
            if not _lock_file(self._folder, number).exists():
                return
            if number != self.number:
                with _lock_file(self._folder, number).open("rb") as lock:
                    lives = not _acquire(lock, fcntl.LOCK_SH)
                yield _read(self._folder, number), lives


def _read(folder: Path, number: int) -> Numbers:
    try:
        rows = json.loads(_file(folder, number).read_text())
    except FileNotFoundError:  # Its process has just taken the slot.
        return {}
    return {name: Counter({tuple(labels): value for *labels, value in counted}) for name, counted in rows.items()}


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.json"


def _lock_file(folder: Path, number: int) -> Path:
    return folder / f"{number}.lock"


def _free(folder: Path) -> Iterator[tuple[int, IO[bytes]]]:
    for number in itertools.count():
        lock = _lock_file(folder, number).open("ab")
        if _acquire(lock, fcntl.LOCK_EX):
            yield number, lock
        lock.close()


def _acquire(lock: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
