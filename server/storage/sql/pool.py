"""Connections that stay open from one call to the next, in SQLAlchemy's pool; what they do for a call ends with it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import PoolProxiedConnection, QueuePool, event
from sqlalchemy.pool import ConnectionPoolEntry

from server.core.cancellation import LOOK_SECONDS, Call, CallOver, acquire, current_call
from server.core.errors import Overloaded
from server.storage.contract import ConnectionUse, StatementWatch
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
    """Lends sessions of one database; safe to share between threads."""

    def __init__(self, database: Database, size: int, watch: StatementWatch | None = None):
        self._database = database
        self._watch = watch
        # Nothing is reset: what begins a transaction ends it.
        self._pool = QueuePool(database.connect, pool_size=size, max_overflow=0, reset_on_return=None, use_lifo=True)
        event.listen(self._pool, "connect", _prepare_with(database))
        # Of the pool's connections, so that the wait for one is here, where the end of a call ends it.
        self._free = threading.Semaphore(size)
        self._lent_sessions: set[Session] = set()
        self._interrupters = ThreadPoolExecutor(INTERRUPTERS, thread_name_prefix="interrupters")

    def read(self, query: Callable[[Session], T]) -> T:
        """Run a query, which changes nothing, and return what it returns. Raises CallOver."""
        call = current_call()
        with self._lent() as session, self._interruptible(session, call):
            if not session.is_pooled:
                return query(session)
            # Behind a pooler, only a transaction has the settings that bound its waits.
            session.begin()
            try:
                return query(session)
            finally:
                _roll_back(session)

    @contextlib.contextmanager
    def transaction(self, *, is_shared: bool = False) -> Iterator[Session]:
        """Lend a session in a transaction: commit at the end of the block, roll back if it raises.

        One that is shared by calls goes on when one of them is over. Raises OutcomeUnknown if the COMMIT was
        interrupted, and CallOver.
        """
        call = None if is_shared else current_call()
        with self._lent() as session:
            with self._interruptible(session, call):
                try:
                    session.begin()
                    yield session
                    if call and call.is_over:
                        raise CallOver
                except BaseException:
                    _roll_back(session)
                    raise
            # Nothing interrupts a COMMIT: PostgreSQL would only stop to wait for a standby, and show others what may
            # not last.
            self._commit(session)

    def use(self) -> ConnectionUse:
        """Return how many connections are lent, how many wait to be, and how many there may be."""
        return ConnectionUse(len(self._lent_sessions), self._pool.checkedin(), self._pool.size())

    def close(self) -> None:
        """Close the connections that are not lent."""
        self._pool.dispose()
        self._interrupters.shutdown(wait=False)

    @contextlib.contextmanager
    def _lent(self) -> Iterator[Session]:
        """Lend a session. Raises Overloaded if there is none for WAIT_SECONDS, ConnectionLost, and CallOver."""
        if not acquire(self._free, WAIT_SECONDS):
            raise Overloaded
        try:
            pooled = self._pool.connect()
            session = self._database.session(pooled, self._watch)
            self._lent_sessions.add(session)
            try:
                yield session
            except self._database.errors as error:
                if not session.is_lost(error):
                    raise
                _give_up(pooled)
                # The others were probably lost with it, and each that was would cost a call an attempt. Those that are
                # lent come back into the pool, of which no more are ever taken out than it has room for.
                self._pool.dispose()
                raise ConnectionLost from error
            except (CallOver, OutcomeUnknown):
                _give_up(pooled)
                raise
            finally:
                self._lent_sessions.discard(session)
                pooled.close()
        finally:
            self._free.release()

    def _interruptible(self, session: Session, call: Call | None) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if call is None else _Interruption(session, call, self._interrupters)

    def _commit(self, session: Session) -> None:
        try:
            session.commit()
        except self._database.errors as error:
            if self._database.failure_of(error) is Failure.CONFLICT:
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


def _prepare_with(database: Database) -> Callable[[Any, ConnectionPoolEntry], None]:
    return lambda driver, entry: database.prepare(driver, entry.info)


def _roll_back(session: Session) -> None:
    """Roll back; a connection on which that fails is given up, which rolls back as well."""
    try:
        session.roll_back()
    except Exception:
        _give_up(session.pooled)


def _give_up(pooled: PoolProxiedConnection) -> None:
    """Close a connection that serves no other call, unless that was done."""
    if pooled.is_valid:
        pooled.invalidate()
