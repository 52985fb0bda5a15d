"""Servers and some of their callers.

A test gets a server over a database of its own, on each backend. Those marked `database("shared")` share one server on
each backend for the whole session, so what they count has to belong to models of their own. What is refused before
storage is asked needs no backend: `any_registry`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from tests.builders import FOLDER, new_folder_rid
from tests.conftest import NewDatabase, databases
from tests.rpc.harness import Registry, User, serving


@dataclass(frozen=True)
class Shared:
    """A server that many tests call, and the URL of its database."""

    registry: Registry
    url: str


SharedOf = Callable[[str], Shared]


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedOf]:
    """The one server of the session on a backend, which is started when it is asked for first."""
    with ExitStack() as stack:
        new_database = stack.enter_context(databases(request, tmp_path_factory.mktemp("shared")))

        @functools.cache
        def shared_on(backend: str) -> Shared:
            url = new_database(backend, migrated=True)
            repository = SqlRepository(database_of(url))
            stack.callback(repository.close)
            return Shared(stack.enter_context(serving(repository)), url)

        yield shared_on


def shares(request: pytest.FixtureRequest) -> bool:
    """Whether a test is content with the server that others call, too."""
    marker = request.node.get_closest_marker("database")
    return marker is not None and marker.args == ("shared",)


@pytest.fixture
def migrated_url(request: pytest.FixtureRequest, backend: str, new_database: NewDatabase) -> str:
    """The database of the server, on each backend."""
    if shares(request):
        return request.getfixturevalue("shared")(backend).url
    return new_database(backend, migrated=True)


@pytest.fixture
def registry(request: pytest.FixtureRequest, backend: str) -> Iterator[Registry]:
    """A server, on each backend."""
    if shares(request):
        yield request.getfixturevalue("shared")(backend).registry
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
def any_registry(shared: SharedOf) -> Registry:
    """A server for calls that are answered before storage is asked, so that the backend does not matter."""
    return shared("sqlite").registry


@pytest.fixture
def any_admin(any_registry: Registry) -> User:
    """An administrator whose calls are refused before storage is asked."""
    return any_registry.user("admin")
