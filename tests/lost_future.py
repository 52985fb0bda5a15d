"""Databases that lose what happened last, as in a restore from a backup, or a failover to a standby that lags."""

from __future__ import annotations

import psycopg
from psycopg import sql

from tests.postgres import create_database, database_name


class LostFuture:
    """A copy of a database of PostgreSQL as it is now, at a URL of its own, which can take the place of that."""

    def __init__(self, postgres_url: str, url: str) -> None:
        self._postgres_url = postgres_url
        self._name = database_name(url)
        self.url = self._copied()

    def take_place(self) -> None:
        """Put the copy into the place of the database. Connections to that break, with all that is under way."""
        self._run("DROP DATABASE {} WITH (FORCE)", self._name)
        self._run("ALTER DATABASE {} RENAME TO {}", database_name(self.url), self._name)

    def _copied(self) -> str:
        # A template must have no connections, and a server that delivers webhooks comes again and again.
        self._run("ALTER DATABASE {} ALLOW_CONNECTIONS false", self._name)
        try:
            with psycopg.connect(self._postgres_url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s", (self._name,)
                )
            return create_database(self._postgres_url, template=self._name)
        finally:
            self._run("ALTER DATABASE {} ALLOW_CONNECTIONS true", self._name)

    def _run(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))  # type: ignore[arg-type]
