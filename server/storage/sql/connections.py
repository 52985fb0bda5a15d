"""Connections that stay open and in order from one call to the next; what they do for a call ends with it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

from sqlalchemy import Connection, Engine, QueuePool
from sqlalchemy.exc import DBAPIError

from server.core.cancellation import CallOver, acquire, current_call
from server.core.errors import Overloaded
from server.storage.contract import ConnectionUse, StatementWatch
from server.storage.sql.conflicts import is_conflict
from server.storage.sql.engine import WAIT_SECONDS, autocommitting, begin, is_pooled, was_warned
from server.storage.sql.interruption import Interruption
from server.storage.sql.prepared import commit, roll_back
from server.storage.sql.statements import watched

T = TypeVar("T")

# How many threads tell databases that a call is over; each takes as long as it takes to connect.
INTERRUPTERS = 4


class OutcomeUnknown(Exception):
    """A COMMIT may have been applied, and need not last: its connection, or its wait for a standby, was broken off."""


class Connections:
    """Lends connections of an engine on which each statement stands alone; safe to share between threads.

    The engine's own pool would reset a connection after each call, which takes longer than most calls do.
    """

    def __init__(self, engine: Engine, watch: StatementWatch | None = None):
        self._watch = watch
        self._engine = autocommitting(engine)
        # Of the pool, which is where they come from, so that nobody waits for one there.
        self._limit = cast("QueuePool", engine.pool).size()
        self._free = threading.Semaphore(self._limit)
        self._lent: set[Connection] = set()
        # The one used last is used next, so that few are in use while little is to be done.
        self._idle: deque[Connection] = deque()
        self._interrupters = ThreadPoolExecutor(INTERRUPTERS, thread_name_prefix="interrupters")

    def take(self) -> Connection:
        """Return a connection, which has to be given back.

        Raises Overloaded if there is none for WAIT_SECONDS, and CallOver.
        """
        if not acquire(self._free, WAIT_SECONDS):
            raise Overloaded
        try:
            connection = self._last_idle() or self._engine.connect()
        except BaseException:
            self._free.release()
            raise
        self._lent.add(connection)
        return connection

    def give_back(self, connection: Connection, raised: BaseException | None = None) -> None:
        """Take a connection back, with what was raised while it was lent.

        After an error of the database it goes back to the pool, which looks after it.
        """
        self._lent.discard(connection)
        try:
            if not connection.invalidated and not isinstance(raised, DBAPIError | OutcomeUnknown):
                self._idle.append(connection)
                return
            if connection.invalidated and not isinstance(raised, CallOver):
                # The others were probably lost with it, and each that was would cost a call an attempt.
                while idle := self._last_idle():
                    idle.invalidate()
                    idle.close()
            connection.close()
        finally:
            self._free.release()

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query, which changes nothing, and return what it returns. Raises CallOver."""
        connection, raised = self.take(), None
        try:
            call = current_call()
            if call is None:
                return _read(connection, query)
            with Interruption(connection, call, self._interrupters):
                return _read(connection, query)
        except BaseException as error:
            raised = error
            raise
        finally:
            self.give_back(connection, raised)

    @contextlib.contextmanager
    def transaction(self, *, is_shared: bool = False) -> Iterator[Connection]:
        """Lend a connection in a transaction: commit at the end of the block, roll back if it raises.

        One that is shared by calls goes on when one of them is over. Raises OutcomeUnknown if the COMMIT was
        interrupted, and CallOver.
        """
        call = None if is_shared else current_call()
        with self._one() as connection:
            with Interruption(connection, call, self._interrupters) if call else contextlib.nullcontext():
                begin(connection)
                try:
                    yield connection
                    if call and call.is_over:
                        raise CallOver
                except BaseException:
                    _roll_back(connection)
                    raise
            # Nothing interrupts a COMMIT: PostgreSQL would only stop to wait for a standby, and show others what may
            # not last.
            with watched("COMMIT", self._watch):
                _commit(connection)

    @contextlib.contextmanager
    def statement(self) -> Iterator[Connection]:
        """Lend a connection for one statement that changes something, and so is a transaction of its own.

        It is not interrupted, since its COMMIT would be, too, and so should not take long. Raises OutcomeUnknown if it
        may have been carried out, or if that does not last.
        """
        with self._one() as connection:
            try:
                yield connection
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise OutcomeUnknown from error
                raise
            _require_lasting(connection)

    def use(self) -> ConnectionUse:
        """Return how many connections are lent, how many wait to be, and how many there may be."""
        return ConnectionUse(len(self._lent), len(self._idle), self._limit)

    def close(self) -> None:
        """Give the connections back to the pool."""
        while connection := self._last_idle():
            connection.close()
        self._interrupters.shutdown(wait=False)

    @contextlib.contextmanager
    def _one(self) -> Iterator[Connection]:
        connection = self.take()
        try:
            yield connection
        except BaseException as raised:
            self.give_back(connection, raised)
            raise
        self.give_back(connection)

    def _last_idle(self) -> Connection | None:
        # Not asked first whether there is one: another thread may take it meanwhile.
        try:
            return self._idle.pop()
        except IndexError:
            return None


def _read(connection: Connection, query: Callable[[Connection], T]) -> T:
    """Run a query, each of whose statements stands alone, unless it needs a transaction for its waits to be bounded."""
    if not is_pooled(connection):
        return query(connection)
    begin(connection)
    try:
        return query(connection)
    finally:
        _roll_back(connection)


def _commit(connection: Connection) -> None:
    try:
        commit(connection)
    except DBAPIError as error:
        if is_conflict(error):
            raise
        connection.invalidate()
        raise OutcomeUnknown from error
    _require_lasting(connection)


def _require_lasting(connection: Connection) -> None:
    """Return if what was committed lasts. Raises OutcomeUnknown."""
    if was_warned(connection):
        # It is committed, but whoever cancelled the wait for a standby has not made sure that it lasts.
        raise OutcomeUnknown from RuntimeWarning("a COMMIT did not wait for a standby")


def _roll_back(connection: Connection) -> None:
    """Roll back, or give up a connection on which that fails: it is closed, and so has nothing to undo."""
    if connection.invalidated:  # Otherwise it would connect anew, to roll back nothing.
        return
    try:
        roll_back(connection)
    except DBAPIError:
        connection.invalidate()
