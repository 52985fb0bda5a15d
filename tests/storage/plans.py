"""How a database carries out a statement, and how much it does for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from server.storage.sql.postgres import PostgresSession
from server.storage.sql.session import Session
from server.storage.sql.sqlite import SqliteSession
from tests.storage.inspection import Executed

CHANGES = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM)\b")

# They come as notices.
_EXPLAIN_ALL = {
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_format": "json",
    "client_min_messages": "log",
}


def plan_on_postgresql(engine: Engine, executed: Executed, calls: int) -> list[dict[str, Any]]:
    """The nodes of the plan with which a statement runs for the last of several times.

    One that changes something is planned only.
    """
    statement = executed.statement
    values = ", ".join(map(literal, executed.parameters))
    analyze = "" if CHANGES.search(statement) else "ANALYZE, "
    with engine.connect() as connection:
        run = connection.connection.driver_connection.execute
        run(f"PREPARE listing AS {statement}".replace("%", "%%"))
        for _ in range(calls):
            execute = f"EXECUTE listing({values})" if values else "EXECUTE listing"
            ran = run(f"EXPLAIN ({analyze}FORMAT JSON) {execute}".replace("%", "%%"))
            [[[explained]]] = ran.fetchall()
        run("DEALLOCATE listing")
    return list(nodes(explained["Plan"]))


@contextmanager
def each_opened(session: type[Session], prepare: Callable[[Any], None]) -> Iterator[None]:
    """Have each connection prepared that is opened meanwhile."""
    begin = session.__init__

    def begin_and_prepare(self: Session, driver: Any, *more: Any) -> None:
        begin(self, driver, *more)
        prepare(driver)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "__init__", begin_and_prepare)
        yield


@contextmanager
def explained() -> Iterator[list[dict[str, Any]]]:
    """The plans with which PostgreSQL carries out statements meanwhile, also those inside of functions and constraints.

    Of connections that are opened meanwhile.
    """
    plans: list[dict[str, Any]] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        _, is_plan, plan = (diagnostic.message_primary or "").partition("plan:")
        if is_plan:
            plans.append(json.loads(plan)["Plan"])

    def explain(connection: psycopg.Connection[Any]) -> None:
        connection.add_notice_handler(note)
        connection.execute("LOAD 'auto_explain'")
        for name, value in _EXPLAIN_ALL.items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, value])

    with each_opened(PostgresSession, explain):
        yield plans


def literal(value: object) -> str:
    """A value as SQL."""
    match value:
        case None:
            return "NULL"
        case bool() | int():
            return str(value)
        case psycopg.Binary():
            return literal(value.obj)
        case bytes():
            return f"'\\x{value.hex()}'"
        case list() | tuple():
            return f"ARRAY[{', '.join(map(literal, value))}]"
        case _:
            return "'{}'".format(str(value).replace("'", "''"))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node of a plan, and all below it."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def rows_read(node: dict[str, Any]) -> float:
    """How many rows of its table a node fetched, whether it passed them on or not."""
    removed = sum(value for key, value in node.items() if key.startswith("Rows Removed by"))
    return (node["Actual Rows"] + removed) * node["Actual Loops"]


class Steps:
    """How many steps SQLite's virtual machine made."""

    def __init__(self) -> None:
        self.count = 0


@contextmanager
def steps_on_sqlite() -> Iterator[Steps]:
    """What SQLite does meanwhile, on connections that are opened meanwhile."""
    steps = Steps()

    def count() -> int:
        steps.count += 1
        return 0

    with each_opened(SqliteSession, lambda driver: driver.set_progress_handler(count, 1)):
        yield steps
