"""Connections that stay open from one call to the next; what they do for a call ends with it.

SQLAlchemy's QueuePool was here before: of a read that costs 59 µs with it, it takes 19.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from server.core.cancellation import LOOK_SECONDS, Call, CallOver, acquire, current_call
from server.core.errors import Overloaded
from server.storage.contract import ConnectionUse, StatementObserver
from server.storage.sql.database import Database
from server.storage.sql.session import WAIT_SECONDS, Failure, Session

T = TypeVar("T")

# How many threads tell databases that a call is over; each takes as long as it takes to connect.
INTERRUPTERS = 4

log = logging.getLogger(__name__)


class ConnectionLost(Exception):
    """A connection ended while it was in use; what was done on it has not been committed."""


class OutcomeUnknown(Exception):
    """A COMMIT may have been applied, possibly not durably: its connection or its wait for a standby was broken off."""


class Pool:
    """Lends sessions of one database, at most `size` at a time; safe to share between threads."""

    def __init__(
        self,
        database: Database,
        size: int,
        observer: StatementObserver | None = None,
        *,
        tells_positions: bool = False,
    ):
        """With `tells_positions`, sessions tell where what they have committed is stored."""
        # What statements raise, and what that means.
        self.errors = database.errors
        self.failure_of = database.failure_of
        self._database = database
        self._size = size
        self._observer = observer
        self._tells_positions = tells_positions
        # The one that came back last is lent next.
        self._idle: deque[Session] = deque()
        self._free = threading.Semaphore(size)
        self._lent: set[Session] = set()
        self._interrupters = ThreadPoolExecutor(INTERRUPTERS, thread_name_prefix="interrupters")

    def read(self, query: Callable[[Session], T]) -> T:
        """Run a query, which changes nothing, and return what it returns. Raises CallOver."""
        call = current_call()

        def run(session: Session) -> T:
            if not session.is_behind_pooler:
                return query(session)
            # Behind a pooler, only a transaction has the settings that bound its waits.
            session.begin()
            try:
                return query(session)
            finally:
                _roll_back(session)

        return self._lend(lambda session: self._interruptibly(session, call, run))

    def write(self, change: Callable[[Session], T], *, also: Callable[[Session], None] | None = None) -> T:
        """Run a change in a transaction, commit it, and return what it returned; roll back if it raises.

        `also` is run after the change, in the same transaction, for other calls. Raises OutcomeUnknown if the COMMIT
        was interrupted, and CallOver.
        """
        call = current_call()

        def run(session: Session) -> T:
            session.extended.clear()
            session.is_marked = False
            session.begin()
            result = change(session)
            session.require_connected()
            if call and call.is_over:
                raise CallOver
            return result

        def run_and_commit(session: Session) -> T:
            try:
                result = self._interruptibly(session, call, run)
                if also is not None:
                    also(session)
            except BaseException:
                _roll_back(session)
                raise
            # Nothing interrupts a COMMIT: PostgreSQL would only stop to wait for a standby, and show others what may
            # not last.
            self._commit(session)
            return result

        return self._lend(run_and_commit)

    def use(self) -> ConnectionUse:
        """Return how many connections are lent, how many are idle, and how many there may be."""
        return ConnectionUse(len(self._lent), len(self._idle), self._size)

    def close(self) -> None:
        """Close the connections that are not lent."""
        self._close_idle()
        self._interrupters.shutdown(wait=False)

    def _lend(self, use: Callable[[Session], T]) -> T:
        """Return what a use of a session returns.

        Raises Overloaded if there is no session for WAIT_SECONDS, ConnectionLost, CallOver, and what the use raises.
        """
        if not acquire(self._free, WAIT_SECONDS):
            raise Overloaded
        try:
            session = self._take()
            self._lent.add(session)
            try:
                return use(session)
            except self.errors as error:
                if not session.is_lost(error):
                    raise
                session.close()
                # The others were probably lost with it, and each that was would cost a call an attempt.
                self._close_idle()
                raise ConnectionLost from error
            except (CallOver, OutcomeUnknown):
                session.close()
                raise
            finally:
                self._lent.discard(session)
                if not session.is_closed:
                    self._idle.append(session)
        finally:
            self._free.release()

    def _take(self) -> Session:
        try:
            return self._idle.pop()
        except IndexError:
            session = self._database.open(self._observer)
            session.tells_position = self._tells_positions
            return session

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _interruptibly(self, session: Session, call: Call | None, use: Callable[[Session], T]) -> T:
        if call is None:
            return use(session)
        with _Interruption(session, call, self._interrupters):
            return use(session)

    def _commit(self, session: Session) -> None:
        try:
            session.commit()
        except self.errors as error:
            # One that has failed before the COMMIT, or was refused there.
            failure = self._database.failure_of(error)
            if session.has_transaction or failure in (Failure.CONFLICT, Failure.FORBIDDEN, Failure.FULL):
                _roll_back(session)
                raise
            raise OutcomeUnknown from error
        if session.was_warned():
            # It is committed; but the wait for a standby was cancelled, so nothing is known of whether it lasts.
            raise OutcomeUnknown from RuntimeWarning("a COMMIT did not wait for a standby")


class _Interruption:
    """A block in which a session works for a call. If the call is over before its end, it raises CallOver.

    Whether an interruption reaches the database before or after what it was meant for has ended, only the database
    knows. So the connection of a session that was interrupted serves no other call.
    """

    __slots__ = ("_call", "_interrupters", "_is_working", "_sending", "_session", "_was_interrupted")

    def __init__(self, session: Session, call: Call, interrupters: Executor):
        self._session = session
        self._call = call
        self._interrupters = interrupters
        self._sending = threading.Lock()
        self._is_working = True
        self._was_interrupted = False

    def __enter__(self) -> None:
        self._call.interrupt_by(self._interrupt_soon)

    def __exit__(self, kind: object, raised: BaseException | None, traceback: object) -> None:
        self._call.interrupt_by(None)
        # An interruption that is about to be sent is sent before the end, or not at all.
        with self._sending:
            self._is_working = False
        if self._was_interrupted:
            raise CallOver from raised

    def _interrupt_soon(self) -> None:
        # It takes a connection of its own to PostgreSQL, for which the thread that ends a call cannot wait.
        with contextlib.suppress(RuntimeError):  # At the end of the process there are no threads for it any more.
            self._interrupters.submit(self._interrupt)

    def _interrupt(self) -> None:
        # Again and again: one that comes between two statements has no effect.
        while self._interrupted():
            time.sleep(LOOK_SECONDS)

    def _interrupted(self) -> bool:
        """Interrupt, and return whether there was something to interrupt."""
        with self._sending:
            if not self._is_working:
                return False
            self._was_interrupted = True
            try:
                self._session.interrupt()
            except Exception as error:
                log.info("what was done for a call that is over goes on for now: %s", error)
            return True


def _roll_back(session: Session) -> None:
    """Roll back; a connection on which that fails is closed, which rolls back as well."""
    try:
        session.roll_back()
    except Exception:
        session.close()
