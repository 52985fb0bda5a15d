"""Runs statements on one connection; `postgres` and `sqlite` say how their drivers do it."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import starmap
from typing import Any, ClassVar, Self

from sqlalchemy.engine import Dialect

from server.storage.contract import StatementObserver
from server.storage.sql.statements import Compiled, Statement

# How long a call waits for a connection or for a lock before it is told that the service is overloaded.
WAIT_SECONDS = 10

_NOTHING: Mapping[str, Any] = {}


class Failure(Enum):
    """What an error of a driver means."""

    # The transaction was refused for what others did meanwhile; nothing was stored, and it can be run again.
    CONFLICT = "conflict"
    # A wait for others took too long; nothing was done.
    BUSY = "busy"
    # There is no room for the change; nothing was stored.
    FULL = "full"
    # The database is not there.
    AWAY = "away"
    # The database does not let us, until an operator changes something.
    FORBIDDEN = "forbidden"
    # A mistake in this program.
    DEFECT = "defect"


class Conflict(Exception):
    """What a transaction was decided by has changed meanwhile: it is to be run again."""


class Session(ABC):
    """One connection, on which each statement stands alone unless a transaction was begun.

    Statements raise the driver's own errors; `failure_of` says what they mean. `driver` is the driver's connection.
    """

    dialect: ClassVar[Dialect]
    # Whether transactions that write can run side by side, and so have to wait for each other's rows.
    has_row_locks: ClassVar[bool]

    def __init__(self, driver: Any, observer: StatementObserver | None):
        self.driver = driver
        self.is_closed = False
        # The branches that the changes of the transaction have extended, which has them locked until its end.
        self.extended: set[tuple[str, str]] = set()
        # Whether to ask where the next changes are stored, and where the last ones are: see `server.core.freshness`.
        self.tells_position = False
        self.position: str | None = None
        # Whether one of them has marked it as one that decides: see `decisions`.
        self.is_marked = False
        self._observer = observer

    @classmethod
    def over(cls, driver: Any, observer: StatementObserver | None, *more: Any) -> Self:
        """Return a session over a new connection, which is closed if that cannot be."""
        try:
            return cls(driver, observer, *more)
        except BaseException:
            driver.close()
            raise

    # Statements

    def all(self, statement: Statement, parameters: Mapping[str, Any] = _NOTHING) -> Sequence[Any]:
        """Run a statement, and return its rows, whose fields have the names of the columns."""
        compiled = statement.compiled(self.dialect)
        rows, _ = self._observed(compiled.text, compiled, compiled.values(parameters))
        return [*starmap(compiled.row, rows)]

    def one_or_none(self, statement: Statement, parameters: Mapping[str, Any] = _NOTHING) -> Any | None:
        """Run a statement that has one row at most, and return that."""
        rows = self.all(statement, parameters)
        return rows[0] if rows else None

    def one(self, statement: Statement, parameters: Mapping[str, Any] = _NOTHING) -> Any:
        """Run a statement that has exactly one row, and return that."""
        [row] = self.all(statement, parameters)
        return row

    def change(self, statement: Statement, parameters: Mapping[str, Any] = _NOTHING) -> int:
        """Run a statement that changes rows, and return how many it did."""
        compiled = statement.compiled(self.dialect)
        _, count = self._observed(compiled.text, compiled, compiled.values(parameters))
        return count

    def send(self, statement: Statement, parameters: Mapping[str, Any] = _NOTHING) -> None:
        """Run a statement of a transaction and do not wait for its end: what it raises, a later one may raise."""
        compiled = statement.compiled(self.dialect)
        self._observed(compiled.text, compiled, compiled.values(parameters), wait=False)

    def run(self, text: str, *, wait: bool = True) -> Sequence[Sequence[Any]]:
        """Run SQL that has no parameters, and return its rows; do not wait for them if `wait` is false."""
        return self._observed(text, None, (), wait)[0]

    # Transactions

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction; on SQLite, one that writes. Raises CallOver."""

    @abstractmethod
    def begin_snapshot(self) -> None:
        """Begin a transaction that changes nothing and sees one moment, for as long as it lasts."""

    @abstractmethod
    def require_connected(self) -> None:
        """Return if the connection can carry a COMMIT. Raises DatabaseUnsuitable, and the driver's error."""

    @abstractmethod
    def commit(self) -> None:
        """Commit."""

    def set_savepoint(self) -> None:
        """Let what is changed from now on be undone by itself, until `release_savepoint`."""
        self.run("SAVEPOINT change", wait=False)

    def roll_back_to_savepoint(self) -> None:
        """Undo what was changed since the savepoint, which stays; what was locked may stay locked, too."""
        self.run("ROLLBACK TO change", wait=False)

    def release_savepoint(self) -> None:
        """Let what was changed since the savepoint belong to the transaction."""
        self.run("RELEASE change", wait=False)

    def roll_back(self) -> None:
        """Roll back, if there is a transaction."""
        if self.has_transaction:
            self.run("ROLLBACK")

    @property
    @abstractmethod
    def has_transaction(self) -> bool:
        """Whether the database has begun a transaction and not ended it."""

    @property
    def is_behind_pooler(self) -> bool:
        """Whether a pooler stands before the database, so that nothing that is set lasts longer than a transaction."""
        return False

    @abstractmethod
    def wait_for_standbys(self) -> None:
        """Let the COMMIT to come wait until standbys, if there are any, have all that is committed by now."""

    def was_warned(self) -> bool:
        """Whether the database warned of something at the last COMMIT."""
        return False

    def close(self) -> None:
        """Close the connection, which rolls back what was not committed."""
        self.is_closed = True
        # One that is broken may say so; then nothing is left to close.
        with contextlib.suppress(Exception):
            self.driver.close()

    @abstractmethod
    def interrupt(self) -> None:
        """Have what the connection does for another thread fail, soon, if it does anything."""

    @abstractmethod
    def break_off(self) -> None:
        """Have what the connection does for another thread fail now, though the database may not answer at all."""

    def is_lost(self, error: Exception) -> bool:
        """Whether the connection is of no use any more, now that this error was raised."""
        return False

    @abstractmethod
    def _execute(
        self, text: str, compiled: Compiled | None, values: Sequence[Any], wait: bool
    ) -> tuple[Sequence[Sequence[Any]], int]:
        """Run SQL by the driver, and return its rows, and how many were changed; neither if `wait` is false."""

    def _observed(
        self, text: str, compiled: Compiled | None, values: Sequence[Any], wait: bool = True
    ) -> tuple[Sequence[Sequence[Any]], int]:
        end = None if self._observer is None else self._observer(text)
        try:
            result = self._execute(text, compiled, values, wait)
        except BaseException as error:
            # The log then says which statement it was; without its values, which are the callers'.
            error.add_note(text)
            if end is not None:
                end(error)
            raise
        if end is not None:
            end(None)
        return result
