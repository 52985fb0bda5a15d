"""Group commit: changes that would wait for each other share one transaction, and so its COMMIT.

On SQLite those are all changes, since there is one writer at a time; on PostgreSQL those that say which one branch they
lock. fsync dominates the cost of a COMMIT, and a branch stays locked until its end.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from server.core.cancellation import CallOver, acquire, current_call, require_wanted
from server.core.errors import Overloaded
from server.storage.sql.pool import ConnectionLost, Pool
from server.storage.sql.session import WAIT_SECONDS, Failure, Session

T = TypeVar("T")

# How many changes go together, at most.
MAX_GROUP = 64


class GroupCommit:
    """Runs changes, each of which happens or not whatever becomes of the others; safe to share between threads.

    The first change of a line leads. Once it has run, and its transaction holds all locks, those that wait in the line
    run in the same transaction, on the same thread. `turn` is what the leader has to have meanwhile.

    The database may tell of one change what another one has sent. So if a group fails, each of its changes is run
    again, alone, and its caller is told what comes of that; one that has waited for too long already is not run again.
    """

    def __init__(self, pool: Pool, turn: Callable[[], AbstractContextManager[None]]):
        self._pool = pool
        self._turn = turn
        # Who waits in each line that has a leader.
        self._lines: dict[Hashable, deque[_Job[Any]]] = {}
        self._deciding = threading.Lock()

    def run(self, change: Callable[[Session], T], line: Hashable = None) -> T:
        """Run a change in a transaction, perhaps with others of its line.

        Raises what the change raises, Overloaded if its turn does not come in time, and CallOver if its call is over
        before.
        """
        with contextlib.suppress(_GroupFailed):
            return self._run(_Job(change), line)
        require_wanted()
        return self._run(_Job(change, is_alone=True), line)

    def _run(self, job: _Job[T], line: Hashable) -> T:
        with self._deciding:
            waiting = self._lines.get(line)
            if waiting is None:
                self._lines[line] = deque()
            else:
                waiting.append(job)
        if waiting is not None:
            self._wait(job, waiting)
            if job.is_done:
                return job.result()
        return self._lead(job, line)

    def _wait(self, job: _Job[Any], waiting: deque[_Job[Any]]) -> None:
        """Return once a job is done, or is to lead. Raises Overloaded and CallOver."""
        try:
            if not acquire(job.woken, WAIT_SECONDS):
                raise Overloaded
        except (CallOver, Overloaded):
            with self._deciding:
                if job in waiting:
                    waiting.remove(job)
                    raise
            # It is being carried out, which does not take long, or its turn to lead has come just now.
            job.woken.acquire()

    def _lead(self, job: _Job[T], line: Hashable) -> T:
        others: list[_Job[Any]] = []

        def run_others(session: Session) -> None:
            if not job.is_alone:
                others.extend(self._taken(line, MAX_GROUP - 1))
            for other in others:
                other.run(session, self._pool.errors)

        try:
            with self._turn():
                return self._pool.write(job.change, also=run_others)
        except (self._pool.errors, ConnectionLost) as error:
            if not others:
                raise
            is_busy = self._pool.failure_of(error) is Failure.BUSY
            for other in others:
                other.fail(error if is_busy and other.is_running else _GroupFailed())
            raise _GroupFailed from error
        except BaseException as error:
            for other in others:
                other.fail(error)
            raise
        finally:
            for next_leader in self._handed_over(line):
                next_leader.woken.release()
            for other in others:
                other.is_done = True
                other.woken.release()

    def _taken(self, line: Hashable, most: int) -> list[_Job[Any]]:
        """Return those next in line that run with the leader."""
        with self._deciding:
            waiting = self._lines[line]
            taken: list[_Job[Any]] = []
            while waiting and len(taken) < most and not waiting[0].is_alone:
                taken.append(waiting.popleft())
            return taken

    def _handed_over(self, line: Hashable) -> list[_Job[Any]]:
        """Return who leads the line from now on; if no change waits, the line ends."""
        with self._deciding:
            if self._lines[line]:
                return [self._lines[line].popleft()]
            del self._lines[line]
            return []


class _GroupFailed(Exception):
    """The database refused a transaction of several changes."""


class _Job(Generic[T]):
    """A change, and what came of it."""

    def __init__(self, change: Callable[[Session], T], is_alone: bool = False):
        self.change = change
        self.is_alone = is_alone
        self.is_running = False
        self.is_done = False
        # Held until the job is done, or its thread shall lead.
        self.woken = threading.Lock()
        self.woken.acquire()
        # Others may run it, and for them the call is another.
        self._call = current_call()
        self._context = copy_context()
        self._returned: T
        self._error: BaseException | None = None

    def run(self, session: Session, errors: type[Exception]) -> None:
        """Run the change, unless its call is over. Raises errors of the database, which end the whole transaction."""
        if self._call is not None and self._call.is_over:
            self._error = CallOver()
            return
        self.is_running = True
        session.set_savepoint()
        try:
            self._returned = self._context.run(self.change, session)
        except errors:
            raise
        except BaseException as error:
            self._error = error
            session.roll_back_to_savepoint()
        session.release_savepoint()
        self.is_running = False

    def fail(self, error: BaseException) -> None:
        """Fail with the whole transaction. What the change itself raised may rest on what others did in it."""
        if not isinstance(self._error, CallOver):
            self._error = error if self._error is None else _GroupFailed()

    def result(self) -> T:
        """Return what the change returned. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._returned
