"""Brings the schema to the newest migration, and tells whether it is there."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from server.storage.sql.engine import WAIT_SECONDS

# Any constant will do, as long as nobody else takes the same advisory lock in this database.
_MIGRATION_LOCK = 6_044_121_873_905


class SchemaOutdated(Exception):
    """The database's schema is older than this server."""


def migrate(engine: Engine) -> None:
    """Run the migrations that are missing, all or none; whoever comes at the same time waits, and finds them done.

    A schema that is newer than this server stays as it is.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # For as long as it takes; but once it is our turn, no table may keep all traffic waiting behind us.
            connection.execute(text("SELECT set_config('lock_timeout', '0', true)"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            connection.execute(text(f"SELECT set_config('lock_timeout', '{WAIT_SECONDS}s', true)"))
        if _is_outdated(connection):
            command.upgrade(_config(connection), "head")


def check(engine: Engine) -> None:
    """Return if the schema is the one of this server, or a newer one. Raises SchemaOutdated if it is older."""
    with engine.connect() as connection:
        if _is_outdated(connection):
            raise SchemaOutdated


def _is_outdated(connection: Connection) -> bool:
    """Whether migrations are missing. A revision that this server does not know is a newer server's."""
    scripts = ScriptDirectory.from_config(_config(connection))
    current = MigrationContext.configure(connection).get_current_revision()
    older = {script.revision for script in scripts.walk_revisions()} - {scripts.get_current_head()}
    return current is None or current in older


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
