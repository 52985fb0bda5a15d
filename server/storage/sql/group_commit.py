"""Group commit, for a database that takes one writer at a time: changes that wait share one transaction.

fsync dominates the cost of a commit. Processes take turns at a lock of the file system.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from server.core.cancellation import CallOver, acquire, current_call, require_wanted
from server.core.errors import Overloaded
from server.storage.sql.file_queue import FileQueue
from server.storage.sql.pool import Pool
from server.storage.sql.session import WAIT_SECONDS, Session

T = TypeVar("T")

# How many changes go together, at most.
MANY = 64


class GroupCommit:
    """Runs changes, each of which happens or not whatever becomes of the others; safe to share between threads."""

    def __init__(self, pool: Pool, database: Path):
        self._pool = pool
        self._queue = FileQueue(database)
        self._waiting: deque[_Job[Any]] = deque()
        # The leader writes for the others; only who that is, is decided under the lock.
        self._deciding = threading.Lock()
        self._is_led = False

    def run(self, change: Callable[[Session], T]) -> T:
        """Run a change in a transaction, perhaps with others.

        Raises Overloaded if its turn does not come in time, and CallOver if its call is over before.
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
        self._queue.close()

    def _wait(self, job: _Job[Any]) -> None:
        """Return once a job is done, or is to lead. Raises Overloaded and CallOver."""
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
        """Write for all jobs that wait, of which this is the first; of those that come meanwhile, the first leads."""
        jobs: list[_Job[Any]] = []
        try:
            require_wanted()
            with self._queue.turn(), self._pool.transaction(is_shared=True) as session:
                # Only now: until then, a job whose call is over can withdraw.
                jobs = self._taken(MANY)
                for job in jobs:
                    job.run(session, alone=len(jobs) == 1)
        except CallOver as error:
            # Before it was this process's turn, for which the other jobs go on waiting.
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


class _Job(Generic[T]):
    """A change, and what came of it."""

    def __init__(self, change: Callable[[Session], T]):
        self.is_done = False
        # Held until the job is done, or its thread shall lead.
        self.woken = threading.Lock()
        self.woken.acquire()
        # Others may run it, and for them the call is another.
        self._call = current_call()
        self._change = change
        self._returned: T
        self._error: BaseException | None = None

    def run(self, session: Session, alone: bool) -> None:
        """Run the change, unless its call is over. Raises what it raises if that ends the whole transaction."""
        if self._call is not None and self._call.is_over:
            self._error = CallOver()
            return
        if alone:
            self._returned = self._change(session)
            return
        session.run("SAVEPOINT change")
        try:
            self._returned = self._change(session)
        except BaseException as error:
            if not session.driver.in_transaction:
                raise
            self._error = error
            session.run("ROLLBACK TO change")
        session.run("RELEASE change")

    def fail(self, error: BaseException) -> None:
        """Fail with the whole transaction, unless the change has failed for a reason of its own."""
        self._error = self._error or error

    def result(self) -> T:
        """Return what the change returned. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._returned
