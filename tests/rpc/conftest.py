"""Servers and some of their callers.

A test gets a server over a database of its own, on each backend. Those marked `database("shared")` share one server on
each backend for the whole session, so what they count has to belong to models of their own. What is refused before
storage is asked needs no backend: `any_registry`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from tests.builders import FOLDER, new_folder_rid
from tests.conftest import NewDatabase
from tests.postgres import create_database, drop_database
from tests.rpc.harness import Registry, User, serving


@dataclass(frozen=True)
class Shared:
    """A server that many tests call, and the URL of its database."""

    registry: Registry
    url: str


@pytest.fixture(scope="session")
def shared_sqlite(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """The one server of the session over SQLite."""
    file = tmp_path_factory.mktemp("shared") / "registry.db"
    shutil.copy(migrated_sqlite, file)
    with serving_to_many(f"sqlite:///{file}") as shared:
        yield shared


@pytest.fixture(scope="session")
def shared_postgresql(migrated_postgres: str, postgres_url: str) -> Iterator[Shared]:
    """The one server of the session over PostgreSQL."""
    url = create_database(postgres_url, template=migrated_postgres)
    try:
        with serving_to_many(url) as shared:
            yield shared
    finally:
        drop_database(postgres_url, url)


@contextmanager
def serving_to_many(url: str) -> Iterator[Shared]:
    """Serve a database."""
    repository = SqlRepository(database_of(url))
    try:
        with serving(repository) as registry:
            yield Shared(registry, url)
    finally:
        repository.close()


def shares(request: pytest.FixtureRequest) -> bool:
    """Whether a test is content with the server that others call, too."""
    marker = request.node.get_closest_marker("database")
    return marker is not None and marker.args == ("shared",)


def shared_on(request: pytest.FixtureRequest, backend: str) -> Shared:
    """The server that tests on a backend share, which is started when it is asked for first."""
    shared: Shared = request.getfixturevalue(f"shared_{backend}")
    return shared


@pytest.fixture
def migrated_url(request: pytest.FixtureRequest, backend: str, new_database: NewDatabase) -> str:
    """The database of the server, on each backend."""
    if shares(request):
        return shared_on(request, backend).url
    return new_database(backend, migrated=True)


@pytest.fixture
def registry(request: pytest.FixtureRequest, backend: str) -> Iterator[Registry]:
    """A server, on each backend."""
    if shares(request):
        yield shared_on(request, backend).registry
        return
    with serving(request.getfixturevalue("repository")) as registry:
        yield registry


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """Where the users of a test create models: names are unique in a folder, also among tests that share a server."""
    return new_folder_rid() if shares(request) else FOLDER


@pytest.fixture
def admin(registry: Registry, folder: str) -> User:
    """An administrator."""
    return dataclasses.replace(registry.user("admin"), folder=folder)


@pytest.fixture
def jane(registry: Registry, folder: str) -> User:
    """Someone without any role."""
    return dataclasses.replace(registry.user("jane"), folder=folder)


@pytest.fixture
def any_registry(shared_sqlite: Shared) -> Registry:
    """A server for calls that are answered before storage is asked, so that the backend does not matter."""
    return shared_sqlite.registry


@pytest.fixture
def any_admin(any_registry: Registry) -> User:
    """An administrator whose calls are refused before storage is asked."""
    return any_registry.user("admin")
