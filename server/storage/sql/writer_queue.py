"""A fair queue of the processes that write to one SQLite file, made of two locks of the file system.

SQLite's own busy handler polls with growing pauses, and can starve writers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from server.core.cancellation import LOOK_SECONDS, CallOver, require_wanted
from server.core.errors import Overloaded
from server.storage.sql.session import WAIT_SECONDS
from server.storage.sql.sqlite import QUEUE_FILES
from server.storage.unavailable import unavailable


class WriterQueue:
    """This process in the queue; it asks for one turn at a time.

    The process that waits for the lock `turn` holds the lock `next`, so the one that had the turn cannot overtake it.
    """

    def __init__(self, database: Path):
        self._database = database
        self._files: tuple[int, int] | None = None
        # Nothing ends a wait for a lock of the file system, so it has a thread of its own.
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="turns")
        self._deciding = threading.Lock()
        # A turn that was asked for by a call that is over; the next call that wants one gets it.
        self._left: Future[bool] | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have the turn for the block.

        Raises StorageUnavailable if there is no queue beside the database, Overloaded if the turn does not come for
        WAIT_SECONDS, and CallOver.
        """
        try:
            files = self._files = self._files or self._open()
            if self._left is not None or not _took_turn(files):
                self._wait(files)
        except OSError as error:
            raise unavailable(error) from error
        try:
            yield
        finally:
            fcntl.flock(files[0], fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files."""
        self._queue.shutdown(wait=False)
        for file in self._files or ():
            os.close(file)
        self._files = None

    def _wait(self, files: tuple[int, int]) -> None:
        with self._deciding:
            turn, self._left = self._left or self._queue.submit(_line_up, files), None
        until = time.monotonic() + WAIT_SECONDS
        try:
            while not wait([turn], LOOK_SECONDS).done:
                require_wanted()
                if time.monotonic() > until:
                    raise Overloaded
        except (CallOver, Overloaded):
            self._leave(turn, files[0])
            raise
        turn.result()

    def _leave(self, turn: Future[bool], file: int) -> None:
        def give_up(_: object) -> None:
            with self._deciding:
                if self._left is turn:
                    self._left = None
                    fcntl.flock(file, fcntl.LOCK_UN)

        self._left = turn
        turn.add_done_callback(give_up)

    def _open(self) -> tuple[int, int]:
        turn, place = (
            os.open(f"{self._database}-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for name in QUEUE_FILES
        )
        return turn, place


def _took_turn(files: tuple[int, int]) -> bool:
    """Take the turn if no process has it, and none waits for it."""
    return _line_up(files, fcntl.LOCK_NB)


def _line_up(files: tuple[int, int], how: int = 0) -> bool:
    turn, place = files
    try:
        fcntl.flock(place, fcntl.LOCK_EX | how)
    except BlockingIOError:
        return False
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | how)
    except BlockingIOError:
        return False
    finally:
        fcntl.flock(place, fcntl.LOCK_UN)
    return True
