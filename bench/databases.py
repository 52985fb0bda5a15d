"""The kinds of database that are measured, each in its durable mode, as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.postgres import PostgresServer, create_database

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
KINDS = (SQLITE, POSTGRESQL)

# Gives the URL of a new, empty database, or None for the one that a server makes itself.
Databases = Callable[[], str | None]


@contextmanager
def databases(kind: str) -> Iterator[Databases]:
    """Have databases of one kind meanwhile. PostgreSQL keeps its data on the disk, and waits for it."""
    if kind == SQLITE:
        yield lambda: None
        return
    # The tests make do with less; this is the default.
    with PostgresServer(max_wal_size="1GB") as postgres:
        yield lambda: create_database(postgres.url())
