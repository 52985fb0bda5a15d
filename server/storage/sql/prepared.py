"""Statements of the calls that come by the thousand: built and compiled once, and then run past SQLAlchemy.

Building, and looking up what was compiled before, would take a hundred times as long as the database itself.
"""

from __future__ import annotations

import contextlib
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from inspect import isfunction
from itertools import starmap
from typing import Any, cast

from sqlalchemy import Connection, bindparam
from sqlalchemy.exc import DBAPIError

from server.core.caller import Caller
from server.storage.sql.conflicts import is_read_only

# How many shapes of a statement are kept, that is, callers with so many different numbers of groups.
_SHAPES = 128
# Of how many callers the parameters are.
_CALLERS = 1024


class Prepared:
    """A statement whose parameters have names."""

    def __init__(self, statement: Any):
        """Take a statement, or what makes it for a connection: not all are the same in each dialect."""
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def all(self, connection: Connection, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Run the statement, and return its rows, whose fields have the names of the columns."""
        # Whoever listens to statements shall hear of these, too.
        if connection.engine.dispatch.before_cursor_execute:
            result = connection.execute(self._for(connection), dict(parameters))
            return result.all() if result.returns_rows else ()
        compiled = self._compiled.get(connection.dialect.name)
        if compiled is None:
            compiled = self._compiled[connection.dialect.name] = _Compiled(self._for(connection), connection)
        return compiled.run(connection, parameters)

    def one_or_none(self, connection: Connection, parameters: Mapping[str, Any]) -> Any | None:
        """Run a statement that has one row at most, and return that."""
        rows = self.all(connection, parameters)
        return rows[0] if rows else None

    def _for(self, connection: Connection) -> Any:
        return self._statement(connection) if isfunction(self._statement) else self._statement


class _Compiled:
    """A statement in the SQL of a dialect."""

    def __init__(self, statement: Any, connection: Connection):
        compiled = statement.compile(dialect=connection.dialect)
        self._text = str(compiled)
        self._order: Sequence[str] | None = compiled.positiontup if compiled.positional else None
        # Values that are part of the statement.
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}
        columns = [column.key for column in statement.exported_columns]
        self._row: Any = namedtuple("Row", columns) if columns else None

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> Sequence[Any]:
        values = {**self._fixed, **parameters} if self._fixed else parameters
        given: Any = values if self._order is None else [values[name] for name in self._order]
        try:
            cursor = _driver(connection).execute(self._text, given)
            return () if self._row is None else [*starmap(self._row, cursor.fetchall())]
        except connection.dialect.loaded_dbapi.Error as error:
            raise _as_raised_by_sqlalchemy(error, connection, self._text) from error


def run(connection: Connection, text: str) -> None:
    """Run a statement that has neither parameters nor rows."""
    # Whoever listens to statements, or to what becomes of the transaction, shall hear of these, too.
    heard = connection.engine.dispatch
    if heard.before_cursor_execute or heard.commit:
        connection.exec_driver_sql(text)
        return
    with _errors_as_raised_by_sqlalchemy(connection, text):
        _driver(connection).execute(text)


def commit(connection: Connection) -> None:
    """Commit what was run, past SQLAlchemy or not."""
    if connection.in_transaction():
        connection.commit()
        return
    with _errors_as_raised_by_sqlalchemy(connection, "COMMIT"):
        _driver(connection).commit()


def roll_back(connection: Connection) -> None:
    """Undo what was run, past SQLAlchemy or not."""
    if connection.in_transaction():
        connection.rollback()
        return
    with _errors_as_raised_by_sqlalchemy(connection, "ROLLBACK"):
        _driver(connection).rollback()


def for_callers(build: Callable[[Caller], Any]) -> Callable[[Caller], Prepared]:
    """Make statements that ask for what a caller may see: one for each number of principals."""

    @lru_cache(_SHAPES)
    def of_shape(principals: int, is_admin: bool) -> Prepared:
        placeholders: Any = tuple(bindparam(_parameter(number)) for number in range(principals))
        return Prepared(build(Caller(placeholders, is_admin=is_admin)))

    return lambda caller: of_shape(0 if caller.is_admin else len(caller.principals), caller.is_admin)


@lru_cache(_CALLERS)
def principals(caller: Caller) -> dict[str, Any]:
    """Return the parameters that are the caller's, of a statement for callers; not to be changed."""
    if caller.is_admin:
        return {}
    return {_parameter(number): principal for number, principal in enumerate(caller.principals)}


def _parameter(number: int) -> str:
    return f"principal_{number}"


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


@contextlib.contextmanager
def _errors_as_raised_by_sqlalchemy(connection: Connection, text: str) -> Iterator[None]:
    try:
        yield
    except connection.dialect.loaded_dbapi.Error as error:
        raise _as_raised_by_sqlalchemy(error, connection, text) from error


def _as_raised_by_sqlalchemy(error: Any, connection: Connection, text: str) -> BaseException:
    """Return the driver's error as the rest of the code knows it; a connection that is lost is given up."""
    lost = connection.dialect.is_disconnect(error, connection.connection, None) or is_read_only(error)
    if lost:
        connection.invalidate(error)
    return DBAPIError.instance(
        text,
        None,
        cast("Exception", error),
        connection.dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=lost,
        dialect=connection.dialect,
    )
