"""Looks into a database, past the repository: what a test asserts about rows and statements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Engine, Row, Table, event, func, select

from server.storage.sql.engine import autocommitting, open_engine
from server.storage.sql.repository import SqlRepository
from server.storage.sql.tables import metadata


class Executed(NamedTuple):
    """A statement that was sent to the database."""

    statement: str
    parameters: Any


def rows(url: str, table: Table) -> list[Row[Any]]:
    """Every row of a table, in the order of its primary key."""
    engine = open_engine(url)
    try:
        with autocommitting(engine).connect() as connection:
            return list(connection.execute(select(table).order_by(*table.primary_key)))
    finally:
        engine.dispose()


def row_counts(url: str) -> dict[str, int]:
    """How many rows each table has."""
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            count = select(func.count())
            return {table.name: connection.scalar(count.select_from(table)) or 0 for table in metadata.sorted_tables}
    finally:
        engine.dispose()


@contextmanager
def opened(url: str) -> Iterator[tuple[Engine, SqlRepository]]:
    """A repository over a database, with its engine."""
    engine = open_engine(url)
    repository = SqlRepository(engine)
    yield engine, repository
    repository.close()


@contextmanager
def statements(engine: Engine) -> Iterator[list[Executed]]:
    """The statements that are sent through the engine meanwhile."""
    executed: list[Executed] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        executed.append(Executed(statement, parameters))

    event.listen(engine, "before_cursor_execute", record)
    try:
        yield executed
    finally:
        event.remove(engine, "before_cursor_execute", record)
