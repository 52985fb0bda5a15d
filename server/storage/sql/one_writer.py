"""For a database that takes one writer at a time: those who wait go together, in one transaction.

What makes a commit last takes longer than what is committed, so it is shared. Processes take turns at locks of the file
system, for the database's own waiters only look now and then, and the unlucky ones too late.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from server.deadline import LOOK_SECONDS, CallOver, acquire, current_call, require_wanted
from server.errors import Overloaded, StorageUnavailable
from server.storage.sql.connections import Connections
from server.storage.sql.engine import WAIT_SECONDS
from server.storage.sql.prepared import run

T = TypeVar("T")

# How many changes go together, at most.
MANY = 64


class OneWriter:
    """Runs changes, each of which happens or not whatever becomes of the others; safe to share between threads."""

    def __init__(self, connections: Connections, database: Path):
        self._connections = connections
        self._turns = Turns(database)
        self._waiting: deque[_Job[Any]] = deque()
        # Whoever leads writes for the others; only this is decided under the lock.
        self._deciding = threading.Lock()
        self._is_led = False

    def run(self, change: Callable[[Connection], T]) -> T:
        """Run a change in a transaction, perhaps with others.

        Raises Overloaded if its turn does not come, and CallOver if nobody waits for it before it does.
        """
        job = _Job(change)
        with self._deciding:
            self._waiting.append(job)
            leads, self._is_led = not self._is_led, True
        if not leads:
            self._wait(job)
        if not job.is_done:
            self._lead()
        return job.result()

    def close(self) -> None:
        """Give up the place in the queue."""
        self._turns.close()

    def _wait(self, job: _Job[Any]) -> None:
        """Return once a job is done, or the first that waits and nobody leads. Raises Overloaded and CallOver."""
        try:
            if not acquire(job.woken, WAIT_SECONDS):
                raise Overloaded
        except (CallOver, Overloaded):
            with self._deciding:
                if job in self._waiting and job.woken.locked():
                    self._waiting.remove(job)
                    raise
            # It is being carried out, which does not take long, or its turn to lead has come just now.
            job.woken.acquire()

    def _lead(self) -> None:
        """Write for all who wait, of whom we are the first; who came meanwhile is led by the first of them."""
        jobs: list[_Job[Any]] = []
        try:
            require_wanted()
            with self._turns.take(), self._connections.transaction(is_shared=True) as connection:
                # Only now: who does not want to wait any longer for our turn can withdraw until then.
                jobs = self._taken(MANY)
                for job in jobs:
                    job.run(connection, alone=len(jobs) == 1)
        except CallOver as error:
            # Before it was our turn, which the others wait for as before.
            jobs = jobs or self._taken(1)
            for job in jobs:
                job.fail(error)
        except BaseException as error:
            jobs = jobs or self._taken(MANY)
            for job in jobs:
                job.fail(error)
        with self._deciding:
            self._is_led = bool(self._waiting)
            if self._is_led:
                self._waiting[0].woken.release()
        for job in jobs:
            job.is_done = True
            job.woken.release()

    def _taken(self, most: int) -> list[_Job[Any]]:
        with self._deciding:
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


class Turns:
    """Processes that write to the same file take turns; a process asks for one at a time.

    Whoever waits for the lock holds the place behind it, so that nobody who had it can take it again before.
    """

    def __init__(self, database: Path):
        self._database = database
        self._files: tuple[int, int] | None = None
        # Nothing ends a wait for a lock of the file system, so it has a thread of its own.
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="turns")
        self._deciding = threading.Lock()
        # The turn for which nobody waits any more; whoever wants the next one gets it.
        self._left: Future[bool] | None = None

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Have the turn for the block.

        Raises StorageUnavailable if there is no queue beside the database, Overloaded if the turn does not come for
        WAIT_SECONDS, and CallOver.
        """
        try:
            files = self._files = self._files or self._open()
            if self._left is not None or not _is_free(files):
                self._wait(files)
        except OSError as error:
            raise StorageUnavailable from error
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
            os.open(f"{self._database}-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for name in ("turn", "next")
        )
        return turn, place


def _is_free(files: tuple[int, int]) -> bool:
    """Take the turn if nobody has it, and nobody waits for it."""
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


class _Job(Generic[T]):
    """A change, and what came of it."""

    def __init__(self, change: Callable[[Connection], T]):
        self.is_done = False
        # Held until the job is done, or its thread shall lead.
        self.woken = threading.Lock()
        self.woken.acquire()
        # Others may run it, and for them the call is another.
        self._call = current_call()
        self._change = change
        self._returned: T
        self._error: BaseException | None = None

    def run(self, connection: Connection, alone: bool) -> None:
        """Run the change, if somebody waits for it. Raises what it raises if that ends the whole transaction."""
        if self._call is not None and self._call.is_over:
            self._error = CallOver()
            return
        if alone:
            self._returned = self._change(connection)
            return
        driver: Any = connection.connection.dbapi_connection
        run(connection, "SAVEPOINT change")
        try:
            self._returned = self._change(connection)
        except BaseException as error:
            if not driver.in_transaction:
                raise
            self._error = error
            run(connection, "ROLLBACK TO change")
        run(connection, "RELEASE change")

    def fail(self, error: BaseException) -> None:
        """Let the whole transaction have failed; who had failed before did so for a reason of its own."""
        self._error = self._error or error

    def result(self) -> T:
        """Return what the change returned. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._returned
