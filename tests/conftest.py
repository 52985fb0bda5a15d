"""Databases for tests: a fresh one each, on every backend, and a server as a process that they share.

PostgreSQL is a real server, see postgres.py.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from server.storage.sql import migrate as migrations
from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from tests.postgres import PostgresServer, create_database, database_name, drop_database
from tests.processes import Server

BACKENDS = ["sqlite", "postgresql"]

# A busy machine makes examples and tries them slowly; how slowly says nothing about what is tried.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


class NewDatabase(Protocol):
    def __call__(self, kind: str, migrated: bool = False) -> str: ...


class OpenRepository(Protocol):
    def __call__(self, url: str, pool_size: int = 8, **options: Any) -> SqlRepository: ...


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server where databases may be created; its data is in memory unless it is given."""
    given = os.environ.get("MODELREGISTRY_TEST_POSTGRES")
    if given:
        yield given
        return
    with PostgresServer(in_memory=True, fsync="off") as server:
        yield server.url()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database to copy."""
    file = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> Iterator[str]:
    """The name of a migrated PostgreSQL database to copy."""
    url = create_database(postgres_url)
    try:
        migrate(url)
        yield database_name(url)
    finally:
        drop_database(postgres_url, url)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as a process, which tests share: what they make in it has names and RIDs of its own."""
    with Server(tmp_path_factory.mktemp("server") / "cwd") as server:
        yield server


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn."""
    return request.param


@pytest.fixture
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewDatabase]:
    """Makes databases without tables, or migrated ones, that are dropped after the test, and returns their URLs."""
    created: list[str] = []
    sqlite_files = (tmp_path / f"registry-{number}.db" for number in range(1000))

    def new(kind: str, migrated: bool = False) -> str:
        if kind == "sqlite":
            file = next(sqlite_files)
            if migrated:
                shutil.copy(request.getfixturevalue("migrated_sqlite"), file)
            return f"sqlite:///{file}"
        template = {"template": request.getfixturevalue("migrated_postgres")} if migrated else {}
        created.append(create_database(request.getfixturevalue("postgres_url"), **template))
        return created[-1]

    yield new
    for url in created:
        drop_database(request.getfixturevalue("postgres_url"), url)


@pytest.fixture
def database_url(backend: str, new_database: NewDatabase) -> str:
    """A fresh database without tables, on each backend."""
    return new_database(backend)


@pytest.fixture
def migrated_url(backend: str, new_database: NewDatabase) -> str:
    """A fresh, migrated database, on each backend."""
    return new_database(backend, migrated=True)


@pytest.fixture
def open_repository() -> Iterator[OpenRepository]:
    """Opens repositories that are closed after the test."""
    closing: list[Callable[[], None]] = []

    def open_(url: str, pool_size: int = 8, **options: Any) -> SqlRepository:
        repository = SqlRepository(database_of(url), pool_size, **options)
        closing.append(repository.close)
        return repository

    yield open_
    for close in closing:
        close()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The garbage collector looks at nothing meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def repository(migrated_url: str, open_repository: OpenRepository) -> SqlRepository:
    """A repository over a fresh database, on each backend."""
    return open_repository(migrated_url)


def migrate(url: str) -> None:
    """Bring a database to the newest schema."""
    migrations.migrate(migrations.open_engine(database_of(url)))
