"""Brings the schema to the newest migration, and tells whether it is there."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

# Any constant will do, as long as nobody else takes the same advisory lock in this database.
_MIGRATION_LOCK = 6_044_121_873_905


class SchemaOutdated(Exception):
    """The database's schema is older than this server."""


def migrate(engine: Engine) -> None:
    """Run the migrations that are missing, all or none; whoever comes at the same time waits, and finds them done."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        command.upgrade(_config(connection), "head")


def check(engine: Engine) -> None:
    """Return if the schema is the one of this server, or a newer one. Raises SchemaOutdated if it is older."""
    with engine.connect() as connection:
        scripts = ScriptDirectory.from_config(_config(connection))
        current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    # A revision that this server does not know comes from a newer one, which keeps older servers working.
    if current != scripts.get_current_head() and (current is None or current in known):
        raise SchemaOutdated


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
