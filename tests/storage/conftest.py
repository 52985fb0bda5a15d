"""A clock that tests set, what changes raise, threads that begin at once, a database for the servers' role."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from server.storage.sql.repository import SqlRepository
from tests.conftest import NewDatabase, OpenRepository

T = TypeVar("T")

DOCUMENT = (Path(__file__).parents[2] / "docs/operations.md").read_text()
ROLE_IN_THE_DOCUMENT = "modelregistry_server"

NOW_MS = 1_700_000_000_123


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


class GivenUp(Exception):
    """What a change raises to be rolled back."""


class Held:
    """A change that does nothing until it may go on."""

    def __init__(self) -> None:
        self._begun, self._goes_on = threading.Event(), threading.Event()

    def __call__(self, tx: object) -> None:
        self._begun.set()
        assert self._goes_on.wait(60)

    def wait_until_begun(self) -> None:
        assert self._begun.wait(60)

    def go_on(self) -> None:
        self._goes_on.set()


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """What `work` returns for each number, all of which begin at the same time."""
    start = threading.Barrier(count, timeout=180)

    def run(number: int) -> T:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return [done.result() for done in [threads.submit(run, number) for number in range(count)]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(migrated_url: str, open_repository: OpenRepository, clock: Clock) -> SqlRepository:
    """A repository that reads the test's clock."""
    return open_repository(migrated_url, clock_ms=clock)


@pytest.fixture
def owner_url(new_database: NewDatabase) -> str:
    """A migrated database on PostgreSQL, through the eyes of its owner."""
    return new_database("postgresql", migrated=True)


@pytest.fixture
def server_url(owner_url: str) -> Iterator[str]:
    """The same database, through the eyes of the role that the document describes."""
    role = f"server_{uuid.uuid4().hex}"
    (grants,) = re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL)
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        for statement in filter(str.strip, grants.replace(ROLE_IN_THE_DOCUMENT, role).split(";")):
            owner.execute(statement.encode())
        yield make_url(owner_url).set(username=role, password=None).render_as_string(hide_password=False)
        owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))
