"""A server over a fresh database, on each backend, and some who call it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.storage.sql.repository import SqlRepository
from tests.rpc.harness import Registry, User, serving


@pytest.fixture
def registry(repository: SqlRepository) -> Iterator[Registry]:
    """A server over a fresh database, on each backend."""
    with serving(repository) as registry:
        yield registry


@pytest.fixture
def admin(registry: Registry) -> User:
    """An administrator."""
    return registry.user("admin")


@pytest.fixture
def jane(registry: Registry) -> User:
    """Someone without any role."""
    return registry.user("jane")
