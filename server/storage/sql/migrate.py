"""Brings the schema to the newest migration, and tells whether it is there.

Alembic takes longer to load than all the rest of a start. It is loaded only where there is something to migrate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError

from server.storage.sql.database import Database
from server.storage.sql.session import WAIT_SECONDS
from server.storage.sql.unchained import chain_next

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"

# Each waits for a table for WAIT_SECONDS, or until the database has found a deadlock.
ATTEMPTS = 5

# SQLSTATE: deadlock_detected, lock_not_available; what a change of tables can run into while others use them.
_IN_USE = {"40P01", "55P03"}

# Any constant will do that no other program uses for an advisory lock in this database.
_MIGRATION_LOCK = 6_044_121_873_905

T = TypeVar("T")

log = logging.getLogger(__name__)


class SchemaOutdated(Exception):
    """The database's schema is older than this server."""


def open_engine(database: Database) -> Engine:
    """Return an engine over new connections of a database: Alembic runs its statements by SQLAlchemy."""

    def connect() -> Any:
        return database.open(None).driver

    if database.file is None:
        url = database.url.set(drivername="postgresql+psycopg")
        return create_engine(url, creator=connect, poolclass=NullPool, isolation_level="READ COMMITTED")
    engine = create_engine(database.url.set(drivername="sqlite"), creator=connect, poolclass=NullPool)

    def begin(connection: Connection) -> None:
        # Of these statements, SQLite itself waits for others.
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {WAIT_SECONDS * 1000}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "begin", begin)
    return engine


def migrate(engine: Engine) -> None:
    """Run the migrations that are missing, one by one; a concurrent call waits, and finds them done.

    Each is carried out whole or not at all, and is tried again if what servers do meanwhile stands in its way. A schema
    that is newer than this server stays as it is.
    """
    is_changed = False
    while _run_next(engine):
        is_changed = True
    if is_changed:
        chain_promotions(engine)


def chain_promotions(engine: Engine) -> None:
    """Chain the promotions that are not chained yet: those of releases that knew no chain.

    They come behind what is chained already on their branch, in the order in which they were recorded. It can be run
    again: servers of the release before go on recording such promotions until the last of them has ended.
    """
    last: int | None = 0
    while last is not None:
        last = _retried(engine, partial(chain_next, behind=last))


def _run_next(engine: Engine) -> bool:
    """Run the first migration that is missing, and return whether there was one."""
    return _retried(engine, _try_next)


def _retried(engine: Engine, step: Callable[[Connection], T]) -> T:
    """Run a step in a transaction of its own, and again if what servers do meanwhile stands in its way."""
    for _ in range(ATTEMPTS - 1):
        try:
            return _alone(engine, step)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _IN_USE:
                raise
            log.info("running a migration again after %s", error.orig)
    return _alone(engine, step)


def _alone(engine: Engine, step: Callable[[Connection], T]) -> T:
    # A transaction each, so that no migration keeps the tables of another one locked: calls lock them in other orders.
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # For as long as it takes; but once it is our turn, no table may keep all traffic waiting behind us.
            connection.execute(text("SELECT set_config('statement_timeout', '0', true)"))
            connection.execute(text("SELECT set_config('lock_timeout', '0', true)"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            connection.execute(text(f"SELECT set_config('lock_timeout', '{WAIT_SECONDS}s', true)"))
        return step(connection)


def _try_next(connection: Connection) -> bool:
    if not _is_outdated(connection):
        return False
    from alembic import command

    command.upgrade(_config(connection), "+1")
    return True


def check(engine: Engine) -> None:
    """Return if the schema is the one of this server, or a newer one. Raises SchemaOutdated if it is older."""
    with engine.connect() as connection:
        if _is_outdated(connection):
            raise SchemaOutdated


def known_revisions() -> list[str]:
    """Return the revisions that this server knows, the oldest first; the names of their files begin with them."""
    return sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _is_outdated(connection: Connection) -> bool:
    """Whether migrations are missing. A revision that this server does not know is a newer server's."""
    current = None
    if inspect(connection).has_table("alembic_version"):
        current = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return is_older(current)


def is_older(revision: str | None) -> bool:
    """Return whether a schema of this revision is older than this server; None is that of no schema at all."""
    return revision is None or revision in known_revisions()[:-1]


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
