"""Migrations on a PostgreSQL that servers are using: what they lock, and what they do about what others lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import Connection, Engine, event, inspect, text

from server.storage.sql import migrate as schema
from tests.conftest import NewDatabase
from tests.postgres import database_name
from tests.processes import until
from tests.storage.inspection import open_engine

SECONDS = 180
SCRIPTS = ScriptDirectory(str(Path(schema.__file__).parent / "migrations"))
REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()][::-1]
# Locks that keep calls waiting: those that read, or those that write.
IN_THE_WAY = text(
    "SELECT DISTINCT relname FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
    " WHERE pid = pg_backend_pid() AND relkind = 'r'"
    " AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"
)
WAITING_MIGRATIONS = """
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# Released before there was the rule. They lock more than one table, each against writes alone but for one.
BEFORE_THE_RULE = {"0002", "0003"}


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    return new_database("postgresql")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    yield engine
    engine.dispose()


def migrate_to(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        command.upgrade(schema._config(connection), revision)


@pytest.mark.parametrize("number", range(1, len(REVISIONS)), ids=REVISIONS[1:])
def test_a_migration_locks_one_table_that_is_in_use(engine: Engine, number: int) -> None:
    """Two could each be what a call holds while it waits for the other."""
    migrate_to(engine, REVISIONS[number - 1])
    in_use = set(inspect(engine).get_table_names()) - {"alembic_version"}
    with engine.begin() as connection:
        command.upgrade(schema._config(connection), REVISIONS[number])
        locked = set(connection.scalars(IN_THE_WAY)) & in_use
    assert len(locked) <= 1 or REVISIONS[number] in BEFORE_THE_RULE, locked


# What servers of the release before do to promote: they count first, and store the version and its record then.
PROMOTES = """
    INSERT INTO models (rid, name, name_digest, parent_folder_rid, created_time, created_by)
        VALUES (:model, :model, :digest, 'ri.folder', 0, 'user:u');
    INSERT INTO contents (digest, payload, size) VALUES (:digest, '', 0);
    INSERT INTO branches (model_id, name, version_count) SELECT id, 'master', 1 FROM models WHERE rid = :model;
    INSERT INTO versions (rid, branch_id, version_number, content_digest, source, root_rid, created_time, created_by)
        SELECT :model, id, 1, :digest, '', :model, {now}, 'user:u' FROM branches WHERE model_id = ({model});
    INSERT INTO promotions (rid, kind, version_id, model_id, source_model_rid, source_rid, created_time, created_by)
        SELECT :model, 1, id, ({model}), 'ri.m', 'ri.v', created_time, 'user:u' FROM versions WHERE rid = :model;
    INSERT INTO grants (resource_rid, principal, role) VALUES (:model, 'user:u', 4);
    INSERT INTO grant_changes (resource_rid, principal, role, changed_by, changed_time)
        VALUES (:model, 'user:u', 4, 'user:u', {now});
""".format(now="date_part('epoch', now()) * 1000", model="SELECT id FROM models WHERE rid = :model")


def test_on_the_way_to_this_schema_servers_of_the_release_before_go_on(engine: Engine) -> None:
    """Each migration is committed by itself, and the next one may have to wait, or fail."""
    role = f'"server_{engine.url.database}"'
    with engine.begin() as owner:
        owner.exec_driver_sql(f"CREATE ROLE {role}")
    try:
        for revision in REVISIONS[REVISIONS.index("0008") :]:
            migrate_to(engine, revision)
            values = {"model": f"ri.model.{revision}", "digest": revision.encode()}
            with engine.begin() as server:
                server.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
                server.exec_driver_sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")
                server.exec_driver_sql(f"SET LOCAL ROLE {role}")
                for statement in filter(str.strip, PROMOTES.split(";")):
                    server.execute(text(statement), values)
    finally:
        with engine.begin() as owner:
            owner.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_migrations_that_are_missing_are_carried_out_one_by_one(engine: Engine) -> None:
    """What one of them locks is free again before the next one begins."""
    migrate_to(engine, REVISIONS[0])
    committed = []

    @event.listens_for(engine, "commit")
    def look(connection: Connection) -> None:
        committed.append(connection.scalar(text("SELECT version_num FROM alembic_version")))

    schema.migrate(engine)

    event.remove(engine, "commit", look)
    assert list(dict.fromkeys(committed)) == REVISIONS[1:]


def test_a_migration_that_cannot_have_a_table_is_tried_again(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "WAIT_SECONDS", 1)
    migrate_to(engine, "0001")
    gave_up = threading.Event()
    event.listen(engine, "rollback", lambda _: gave_up.set())
    with psycopg.connect(url) as somebody, ThreadPoolExecutor(1) as thread:
        somebody.execute("LOCK TABLE contents IN ACCESS SHARE MODE")
        migrating = thread.submit(schema.migrate, engine)
        assert gave_up.wait(SECONDS)
        somebody.commit()
        migrating.result(SECONDS)
    schema.check(engine)


def test_a_migration_that_can_never_have_a_table_is_given_up(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "WAIT_SECONDS", 1)
    monkeypatch.setattr(schema, "ATTEMPTS", 2)
    migrate_to(engine, "0001")
    with psycopg.connect(url) as somebody:
        somebody.execute("LOCK TABLE contents IN ACCESS SHARE MODE")
        with pytest.raises(Exception, match="lock timeout"):
            schema.migrate(engine)
    schema.migrate(engine)
    schema.check(engine)


def test_a_migration_takes_as_long_as_it_takes(url: str, engine: Engine) -> None:
    """Here it waits for another one, for longer than the database lets statements take."""
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(
            sql.SQL("ALTER DATABASE {} SET statement_timeout = '300ms'").format(sql.Identifier(database_name(url)))
        )
        owner.execute("SELECT pg_advisory_lock(%s)", [schema._MIGRATION_LOCK])
        with ThreadPoolExecutor(1) as thread:
            migrating = thread.submit(schema.migrate, engine)
            until(lambda: owner.execute(WAITING_MIGRATIONS).rowcount == 1)
            with psycopg.connect(url) as other, pytest.raises(psycopg.errors.QueryCanceled):
                other.execute("SELECT pg_sleep(3600)")
            assert not migrating.done()
            owner.execute("SELECT pg_advisory_unlock_all()")
            migrating.result(SECONDS)
    schema.check(engine)


def test_indexes_that_were_built_beforehand_are_not_built_again(url: str, engine: Engine) -> None:
    """As docs/operations.md says: without a lock that keeps promotions waiting."""
    migrate_to(engine, "0004")
    page = (Path(schema.__file__).parents[3] / "docs/operations.md").read_text()
    building = [line for line in page.splitlines() if line.startswith("CREATE INDEX CONCURRENTLY ")]
    with psycopg.connect(url, autocommit=True) as owner:
        for statement in building:
            owner.execute(statement.encode())
    before = {index["name"] for index in inspect(engine).get_indexes("promotions")}

    schema.migrate(engine)

    after = {index["name"] for index in inspect(engine).get_indexes("promotions")}
    assert before - after == {"ix_promotions_source_rid"}
    assert after < before
