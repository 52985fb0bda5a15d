"""Statements: built with SQLAlchemy Core, compiled once for each dialect, and run by a `Session`.

Building a statement, or looking up what was compiled before, takes longer than the database takes to answer most of
them. So each is built once: where its form depends on something, such as the number of a caller's principals, it is
built once for each form.
"""

from __future__ import annotations

import itertools
from collections import namedtuple
from collections.abc import Callable, Mapping
from functools import lru_cache
from inspect import isfunction
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Table, bindparam

from server.core.caller import Caller

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.engine import Dialect

# How many forms of one statement are kept, and for how many callers their parameters.
_FORMS = 128
_CALLERS = 1024

_serial = itertools.count(1)
T = TypeVar("T")


class Compiled:
    """A statement in the SQL of a dialect: `names` are its parameters in order, `row` makes a named tuple of a row."""

    def __init__(self, statement: Any, dialect: Dialect):
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        self.names: tuple[str, ...] = tuple(compiled.positiontup)
        # What a server calls it that keeps it prepared.
        self.name = f"s{next(_serial)}".encode()
        # Whether the best plan depends on the values. Of a page it does: on `count`, how long the page is.
        self.is_page = "count" in self.names
        # Whether it changes something that has to be undone; a lock may stay until the end of the transaction.
        self.is_change = not statement.is_select
        # Values that are part of the statement.
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}
        columns = [column.key for column in statement.exported_columns]
        self.row: Any = namedtuple("Row", columns) if columns else None

    def values(self, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the values of the parameters, in order."""
        given = {**self._fixed, **parameters} if self._fixed else parameters
        return [given[name] for name in self.names]


class Statement:
    """A statement whose parameters have names: a Core construct, or a function that makes one for a dialect."""

    def __init__(self, build: Any):
        self._build = build
        self._compiled: dict[str, Compiled] = {}

    def compiled(self, dialect: Dialect) -> Compiled:
        """Return the statement in a dialect."""
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            statement = self._build(dialect) if isfunction(self._build) else self._build
            compiled = self._compiled[dialect.name] = Compiled(statement, dialect)
        return compiled


def forms(build: Callable[..., Any]) -> Callable[..., Statement]:
    """Make a function that builds a statement for arguments return the one `Statement` of these arguments."""
    return lru_cache(_FORMS)(lambda *arguments: Statement(build(*arguments)))


def for_callers(build: Callable[..., Any]) -> Callable[..., Statement]:
    """Make statements that ask for what a caller may see: one for each power of two of principals, and other arguments.

    Their parameters are those of `principals`.
    """

    @lru_cache(_FORMS)
    def of_form(count: int, is_admin: bool, *arguments: Any) -> Statement:
        placeholders: Any = tuple(bindparam(_parameter(number)) for number in range(count))
        return Statement(build(Caller(placeholders, is_admin=is_admin), *arguments))

    return lambda caller, *arguments: of_form(len(principals(caller)), caller.is_admin, *arguments)


@lru_cache(_CALLERS)
def principals(caller: Caller) -> dict[str, Any]:
    """Return the parameters that are the caller's, of a statement for callers; not to be changed."""
    if caller.is_admin:
        return {}
    return {_parameter(number): principal for number, principal in enumerate(padded([*caller.principals]))}


def _parameter(number: int) -> str:
    return f"principal_{number}"


def upsert(dialect: Dialect, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that knows ON CONFLICT, which SQLAlchemy has for each dialect but not for all."""
    # Of a dialect, SQLAlchemy loads all drivers. A server needs one, and starts sooner without the others.
    if dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.Insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.Insert(table)


def padded(values: list[T]) -> list[T]:
    """Return values for `column IN (…)`, of which the last stands there again until they are a power of two.

    So there are few forms of a statement that names many values. There is at least one.
    """
    return values + values[-1:] * ((1 << (len(values) - 1).bit_length()) - len(values))


def several(name: str, count: int) -> Any:
    """Return the placeholders for so many values, to which `numbered` gives them."""
    return tuple(bindparam(f"{name}_{number}") for number in range(count))


def numbered(name: str, values: list[Any]) -> dict[str, Any]:
    """Return the parameters of `several`."""
    return {f"{name}_{number}": value for number, value in enumerate(values)}
