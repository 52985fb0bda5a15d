"""Looks into a database, past the repository: what a test asserts about rows and statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    NullPool,
    Row,
    Table,
    create_engine,
    func,
    make_url,
    select,
    text,
)

from server.storage.sql import migrate
from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from server.storage.sql.session import Session
from server.storage.sql.tables import metadata


class Executed(NamedTuple):
    """A statement that was sent to the database, the values of its parameters, and whether its end was waited for."""

    statement: str
    parameters: list[Any]
    was_waited_for: bool


def open_engine(url: str) -> Engine:
    """An engine over a database, for statements of tests."""
    return migrate.open_engine(database_of(url))


@contextmanager
def opened(url: str) -> Iterator[tuple[Engine, SqlRepository]]:
    """A repository over a database, and an engine over the same."""
    repository = SqlRepository(database_of(url))
    yield open_engine(url), repository
    repository.close()


@contextmanager
def _reading(url: str) -> Iterator[Connection]:
    """A connection for questions, which on SQLite wait for no writer."""
    parsed = make_url(url)
    driver = "sqlite" if parsed.get_backend_name() == "sqlite" else "postgresql+psycopg"
    with create_engine(parsed.set(drivername=driver), poolclass=NullPool).connect() as connection:
        yield connection


def rows(url: str, table: Table) -> list[Row[Any]]:
    """Every row of a table, in the order of its primary key."""
    with _reading(url) as connection:
        return list(connection.execute(select(table).order_by(*table.primary_key)))


def row_counts(url: str) -> dict[str, int]:
    """How many rows each table has."""
    with _reading(url) as connection:
        count = select(func.count())
        return {table.name: connection.scalar(count.select_from(table)) or 0 for table in metadata.sorted_tables}


def execute(url: str, statement: str | sql.Composed, *parameters: object) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement, parameters)


def alter(url: str, *statements: Executable) -> None:
    """Change a database as its owner can, in one transaction, with no trigger and no foreign key in the way."""
    engine = open_engine(url)
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            # Nothing to the purpose inside of a transaction.
            connection.connection.execute("PRAGMA foreign_keys = OFF")  # type: ignore[attr-defined]
        with connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                connection.execute(statement)
    engine.dispose()


def break_connection(url: str, session: Session) -> None:
    """End the backend of one connection, and return when it is gone."""
    execute(url, "SELECT pg_terminate_backend(%s, 10000)", session.driver.info.backend_pid)


def waiting(repository: SqlRepository) -> int:
    """How many changes wait for others that go first."""
    return sum(map(len, repository._group_commit._lines.values()))


def waiting_for_locks(repository: SqlRepository) -> int:
    """How many locks of PostgreSQL are waited for."""
    asked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    count: int = repository.read(lambda reader: reader.session.run(asked)[0][0])  # type: ignore[attr-defined]
    return count


@contextmanager
def at_commit(action: Callable[[Session], object], once: bool = False) -> Iterator[None]:
    """Have something done in each transaction, or in the first one, before it commits."""
    run = Session._observed

    def act(session: Session, text: str, compiled: Any, values: Any, wait: bool = True) -> Any:
        nonlocal action
        if text == "COMMIT":
            acting = action
            if once:
                action = bool
            acting(session)
        return run(session, text, compiled, values, wait)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_observed", act)
        yield


@contextmanager
def statements() -> Iterator[list[Executed]]:
    """The statements that sessions send meanwhile, but for the end of transactions."""
    executed: list[Executed] = []
    run = Session._observed

    def record(session: Session, text: str, compiled: Any, values: Any, wait: bool = True) -> Any:
        if text not in {"COMMIT", "ROLLBACK"}:
            executed.append(Executed(text, [*values], wait))
        return run(session, text, compiled, values, wait)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_observed", record)
        yield executed
