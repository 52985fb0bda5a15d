"""For a database that takes one writer at a time: those who wait go together, in one transaction.

What makes a commit last takes longer than what is committed, so it is shared. Processes take turns at locks of the file
system, for the database's own waiters only look now and then, and the unlucky ones too late.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from server.deadline import CallOver, acquire, current_call
from server.errors import Overloaded, StorageUnavailable
from server.storage.sql.connections import Connections
from server.storage.sql.engine import WAIT_SECONDS

T = TypeVar("T")

# How many changes go together, at most.
MANY = 64


class OneWriter:
    """Runs changes, each of which happens or not whatever becomes of the others; safe to share between threads."""

    def __init__(self, connections: Connections, database: Path):
        self._connections = connections
        self._turns = Turns(database)
        self._waiting: deque[_Job[Any]] = deque()
        self._writing = threading.Lock()

    def run(self, change: Callable[[Connection], T]) -> T:
        """Run a change in a transaction, perhaps with others.

        Raises Overloaded if its turn does not come, and CallOver if nobody waits for it before it does.
        """
        job = _Job(change)
        self._waiting.append(job)
        try:
            if not acquire(self._writing, WAIT_SECONDS):
                raise Overloaded
        except (CallOver, Overloaded):
            if self._withdraw(job):
                raise
            # It is being carried out, which does not take long.
            job.is_done.wait()
        else:
            try:
                # Whoever comes to write does so for all who wait, and these find it done.
                while not job.is_done.is_set():
                    self._write(job)
            finally:
                self._writing.release()
        return job.result()

    def close(self) -> None:
        """Give up the place in the queue."""
        self._turns.close()

    def _withdraw(self, job: _Job[Any]) -> bool:
        """Take back a job, and return whether it could be: not if it is being carried out."""
        try:
            self._waiting.remove(job)
        except ValueError:
            return False
        return True

    def _write(self, own: _Job[Any]) -> None:
        """Write for those who wait; for whom it is done, `own` among them, they are done."""
        jobs: list[_Job[Any]] = []
        try:
            with self._turns.take(), self._connections.transaction(is_shared=True) as connection:
                # Only now: who does not want to wait any longer for our turn can withdraw until then.
                jobs = self._next_jobs()
                for job in jobs:
                    job.run(connection, alone=len(jobs) == 1)
        except CallOver as error:
            # Before it was our turn, which the others wait for as before.
            if self._withdraw(own):
                jobs = [own]
            own.fail(error)
        except BaseException as error:
            jobs = jobs or self._next_jobs()
            for job in jobs:
                job.fail(error)
        for job in jobs:
            job.is_done.set()

    def _next_jobs(self) -> list[_Job[Any]]:
        jobs: list[_Job[Any]] = []
        # Others may withdraw theirs meanwhile.
        with contextlib.suppress(IndexError):
            while len(jobs) < MANY:
                jobs.append(self._waiting.popleft())
        return jobs


class Turns:
    """Processes that write to the same file take turns.

    Whoever waits for the lock holds the place behind it, so that nobody who had it can take it again before.
    """

    def __init__(self, database: Path):
        self._database = database
        self._files: tuple[int, int] | None = None

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Have the turn for the block. Raises StorageUnavailable if there is no queue beside the database."""
        try:
            turn, place = self._files = self._files or self._open()
            fcntl.flock(place, fcntl.LOCK_EX)
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(place, fcntl.LOCK_UN)
        except OSError as error:
            raise StorageUnavailable from error
        try:
            yield
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files."""
        for file in self._files or ():
            os.close(file)
        self._files = None

    def _open(self) -> tuple[int, int]:
        turn, place = (
            os.open(f"{self._database}-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for name in ("turn", "next")
        )
        return turn, place


class _Job(Generic[T]):
    """A change, and what came of it."""

    def __init__(self, change: Callable[[Connection], T]):
        self.is_done = threading.Event()
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
        driver.execute("SAVEPOINT change")
        try:
            self._returned = self._change(connection)
        except BaseException as error:
            if not driver.in_transaction:
                raise
            self._error = error
            driver.execute("ROLLBACK TO change")
        driver.execute("RELEASE change")

    def fail(self, error: BaseException) -> None:
        """Let the whole transaction have failed; who had failed before did so for a reason of its own."""
        self._error = self._error or error

    def result(self) -> T:
        """Return what the change returned. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._returned
