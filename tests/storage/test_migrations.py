"""Migrations: interrupted ones, simultaneous ones, and what the check says of a schema. On every backend."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, inspect, make_url, text

from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, Promotion
from server.storage.contract import PromotionFilter
from server.storage.paging import PageRequest
from server.storage.sql import migrate as schema
from server.storage.sql import tables
from server.storage.sql.migrate import SchemaOutdated
from server.storage.sql.rows import content_of
from tests.builders import ADMIN, add_model, append, timestamp, version
from tests.conftest import NewDatabase, OpenRepository, migrate
from tests.storage.inspection import open_engine, row_counts, rows

SECONDS = 180


@pytest.fixture
def engine(database_url: str) -> Any:
    """An engine on a fresh database without tables."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


def differences(engine: Engine) -> list[Any]:
    """What sets the schema of the database apart from the tables that the code believes in."""
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection), tables.metadata)


def python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Run code in a process of its own; `import` whatever it needs there."""
    return subprocess.Popen([sys.executable, "-c", code, *arguments], text=True, **options)


def test_migrations_lead_to_the_tables_that_the_code_believes_in(engine: Engine) -> None:
    assert differences(engine)

    schema.migrate(engine)

    assert differences(engine) == []


def test_migrating_again_changes_nothing(database_url: str, engine: Engine, open_repository: OpenRepository) -> None:
    schema.migrate(engine)
    repository = open_repository(database_url)
    append(repository, version(add_model(repository).rid))
    before = row_counts(database_url)

    schema.migrate(engine)

    assert differences(engine) == []
    assert row_counts(database_url) == before


# A version as the first release stored it.
OF_THE_FIRST_RELEASE = (
    "INSERT INTO models (rid, name, name_digest, parent_folder_rid, created_time, created_by)"
    " VALUES (:model_rid, 'old', :digest, 'ri.compass.main.folder.sample', 1, 'user:admin')",
    "INSERT INTO branches (model_id, name, version_count) SELECT id, 'master', 1 FROM models",
    "INSERT INTO contents (digest, payload, size) VALUES (:digest, :payload, :size)",
    "INSERT INTO versions"
    " (rid, branch_id, version_number, content_digest, source, root_rid, created_time, created_by)"
    " SELECT :rid, id, 1, :digest, :source, :rid, 1, 'user:admin' FROM branches",
)


def of_first_release(old: ModelVersion) -> dict[str, Any]:
    """The values of OF_THE_FIRST_RELEASE for a version."""
    content = content_of(old)
    return {
        "model_rid": old.model_rid,
        "rid": old.rid,
        "digest": content.digest,
        "payload": content.payload,
        "size": len(content.payload),
        "source": old.source.SerializeToString(),
    }


def test_versions_of_before_model_files_go_on_without(
    database_url: str, engine: Engine, open_repository: OpenRepository
) -> None:
    old = version("ri.models.main.model.old")
    values = of_first_release(old)
    with engine.begin() as connection:
        command.upgrade(schema._config(connection), "0001")
        for statement in OF_THE_FIRST_RELEASE:
            connection.execute(text(statement), values)
    with pytest.raises(SchemaOutdated):
        schema.check(engine)

    schema.migrate(engine)

    repository = open_repository(database_url)
    stored = repository.read(lambda reader: reader.find_version(old.rid, ADMIN))
    assert stored is not None
    assert stored.version.model_api == old.model_api
    assert repository.read(lambda reader: reader.find_file(stored.content_digest)) is None
    # And new versions share what is stored, and can be like it but for their files.
    again = append(repository, version(old.model_rid))
    assert again.version_number == 2
    assert row_counts(database_url)["contents"] == 1


# A version that was promoted before promotions had records, as the second release stored it.
PROMOTED_BEFORE = (
    "INSERT INTO versions"
    " (rid, branch_id, version_number, content_digest, source, root_rid, created_time, created_by)"
    " SELECT :promoted_rid, id, :number, :digest, :promoted_source, :rid, 2, 'user:jane' FROM branches"
)


def test_promotions_of_before_records_get_theirs(
    database_url: str, engine: Engine, open_repository: OpenRepository
) -> None:
    """However many they are: they are read in batches."""
    old, promoted = (version("ri.models.main.model.old") for _ in range(2))
    count = 2500
    source = PromotedSource(previous_model_rid=old.model_rid, previous_model_version_rid=old.rid)
    values = of_first_release(old) | {"promoted_source": ModelVersionSource(promoted=source).SerializeToString()}
    with engine.begin() as connection:
        command.upgrade(schema._config(connection), "0002")
        for statement in OF_THE_FIRST_RELEASE:
            connection.execute(text(statement), values)
        for number in range(2, count + 2):
            rid = promoted.rid if number == 2 else f"{promoted.rid}-{number}"
            connection.execute(text(PROMOTED_BEFORE), values | {"promoted_rid": rid, "number": number})
        connection.execute(text("UPDATE branches SET version_count = :count"), {"count": count + 1})

    schema.migrate(engine)

    repository = open_repository(database_url)
    assert row_counts(database_url)["promotions"] == count
    [found] = repository.read(
        lambda reader: reader.list_promotions(ADMIN, PromotionFilter(version_rid=promoted.rid), PageRequest(10))
    ).items
    assert found == Promotion(
        rid=found.rid,
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=old.model_rid,
        source_model_version_rid=old.rid,
        model_rid=old.model_rid,
        branch="master",
        model_version_rid=promoted.rid,
        version_number=2,
        replaced_version_rid=old.rid,
        created_by="user:jane",
        created_time=timestamp(2),
    )
    lineage = repository.read(lambda reader: reader.get_lineage(promoted.rid, ADMIN, PageRequest(10)))
    assert [node.model_version_rid for node in lineage.page.items] == [promoted.rid, old.rid]


# A version that someone created, and the record that makes one a promotion, as the release before quotas stored them.
CREATED_BEFORE = (
    "INSERT INTO versions"
    " (rid, branch_id, version_number, content_digest, source, root_rid, created_time, created_by)"
    " SELECT :new_rid, id, :number, :digest, :source, :rid, 2, :creator FROM branches"
)
PROMOTION_OF_BEFORE = (
    "INSERT INTO promotions"
    " (rid, kind, version_id, model_id, source_model_rid, source_rid, created_time, created_by)"
    " SELECT 'p', 1, v.id, b.model_id, :model_rid, :rid, 2, 'user:promoter'"
    " FROM versions v JOIN branches b ON b.id = v.branch_id WHERE v.rid = :new_rid"
)


def test_files_of_before_quotas_count_for_creators_and_folders(database_url: str, engine: Engine) -> None:
    old = version("ri.models.main.model.old")
    values = of_first_release(old) | {"file": b"f" * 32}
    with engine.begin() as connection:
        command.upgrade(schema._config(connection), "0008")
        connection.execute(text("INSERT INTO files (digest, object_name, size) VALUES (:file, 'object', 5)"), values)
        for statement in OF_THE_FIRST_RELEASE:
            connection.execute(text(statement), values)
        connection.execute(text("UPDATE contents SET file_digest = :file"), values)
        for number, creator in ((2, "user:jane"), (3, "user:jane"), (4, "user:promoter")):
            new = {"new_rid": f"{old.rid}-{number}", "number": number, "creator": creator}
            connection.execute(text(CREATED_BEFORE), values | new)
        connection.execute(text(PROMOTION_OF_BEFORE), values | new)

    schema.migrate(engine)

    assert {tuple(row) for row in rows(database_url, tables.file_usage)} == {
        ("user:admin", 5),
        ("user:jane", 10),
        ("ri.compass.main.folder.sample", 15),
    }


def test_every_text_is_compared_by_code_point_on_postgresql(new_database: NewDatabase) -> None:
    """Whatever the collation of the database."""
    engine = open_engine(new_database("postgresql", migrated=True))
    columns = {
        f"{table}.{column['name']}": getattr(column["type"], "collation", None)
        for table in tables.metadata.tables
        for column in inspect(engine).get_columns(table)
        if isinstance(column["type"], tables.Text)
    }
    engine.dispose()

    assert {"models.rid", "branches.name", "grants.principal", "versions.legacy_source"} < columns.keys()
    assert set(columns.values()) == {"C"}


# Dies as a process dies that is killed, just before the statement or the commit that it is told.
INTERRUPTED = """
import os, signal, sys
from sqlalchemy import event
from server.storage.sql import migrate as schema
from tests.storage.inspection import open_engine

url, last = sys.argv[1], sys.argv[2]
engine = open_engine(url)

def die():
    print("dying", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

def watch(connection, cursor, statement, *_):
    if statement.split("(")[0].split() == last.split():
        die()

event.listen(engine, "before_cursor_execute", watch)
if last == "COMMIT":
    event.listen(engine, "commit", lambda connection: die())
schema.migrate(engine)
"""


@pytest.mark.parametrize("last", ["CREATE TABLE models", "CREATE TABLE versions", "COMMIT"])
def test_a_migration_that_was_killed_can_be_run_again(database_url: str, engine: Engine, last: str) -> None:
    killed = python(INTERRUPTED, database_url, last, stdout=subprocess.PIPE)
    output, _ = killed.communicate(timeout=SECONDS)
    assert (output, killed.returncode) == ("dying\n", -signal.SIGKILL)
    with pytest.raises(SchemaOutdated):
        schema.check(engine)

    schema.migrate(engine)

    assert differences(engine) == []
    schema.check(engine)


SIMULTANEOUS = """
import sys
from server.storage.sql import migrate as schema
from tests.storage.inspection import open_engine

for url in sys.argv[1:]:
    print("ready", flush=True)
    sys.stdin.readline()
    schema.migrate(open_engine(url))
print("done", flush=True)
"""


def test_two_processes_may_migrate_at_once(backend: str, new_database: NewDatabase) -> None:
    urls = [new_database(backend) for _ in range(5)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [python(SIMULTANEOUS, *urls, **pipes) for _ in range(2)]
    try:
        for _ in urls:
            for process in processes:
                assert process.stdout.readline() == "ready\n", process.stderr.read()
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
        for process in processes:
            output, errors = process.communicate(timeout=SECONDS)
            assert (output, process.returncode) == ("done\n", 0), errors
    finally:
        for process in processes:
            process.kill()
            process.wait()

    for url in urls:
        engine = open_engine(url)
        assert differences(engine) == []
        engine.dispose()


def test_a_database_that_another_process_just_creates_is_waited_for(new_database: NewDatabase) -> None:
    """On SQLite, where opening it is a change of its own: to write-ahead logging."""
    url = new_database("sqlite")
    engine = open_engine(url)
    with closing(sqlite3.connect(make_url(url).database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE other (id INTEGER)")
        with ThreadPoolExecutor(1) as threads:
            migrating = threads.submit(schema.migrate, engine)
            with pytest.raises(TimeoutError):
                migrating.result(timeout=0.3)
            other.execute("COMMIT")
            migrating.result(timeout=SECONDS)
    schema.check(engine)
    engine.dispose()


def test_a_migration_waits_for_one_that_runs(database_url: str, engine: Engine) -> None:
    """The second finds the work of the first done; it does not fail on what is half there."""
    finished = []

    @event.listens_for(engine, "commit", once=True)
    def meanwhile(_: Any) -> None:
        second = python(SIMULTANEOUS, database_url, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert second.stdout.readline() == "ready\n"
        second.stdin.write("go\n")
        second.stdin.flush()
        finished.append(second)

    schema.migrate(engine)

    [second] = finished
    output, _ = second.communicate(timeout=SECONDS)
    assert (output, second.returncode) == ("done\n", 0)
    assert differences(engine) == []


def test_the_files_of_migrations_are_named_by_their_revisions_in_order(engine: Engine) -> None:
    """By which a server knows them without loading what it takes to run them."""
    with engine.begin() as connection:
        scripts = ScriptDirectory.from_config(schema._config(connection))

    assert schema.known_revisions() == [script.revision for script in scripts.walk_revisions()][::-1]


def test_an_older_schema_is_refused(engine: Engine) -> None:
    with pytest.raises(SchemaOutdated):
        schema.check(engine)


def test_a_current_schema_is_accepted(engine: Engine) -> None:
    schema.migrate(engine)

    schema.check(engine)


def test_a_schema_without_a_revision_is_refused(engine: Engine) -> None:
    schema.migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))

    with pytest.raises(SchemaOutdated):
        schema.check(engine)


def test_a_newer_schema_is_accepted_and_used(
    database_url: str, engine: Engine, open_repository: OpenRepository
) -> None:
    """So that the servers of before keep answering while newer ones are rolled out."""
    migrate(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from-the-future'"))
        connection.execute(text("ALTER TABLE models ADD COLUMN invented_later TEXT"))

    schema.check(engine)
    repository = open_repository(database_url)
    model = add_model(repository)
    assert append(repository, version(model.rid)).version_number == 1
    assert [row.rid for row in rows(database_url, tables.models)] == [model.rid]


def test_a_check_changes_nothing(engine: Engine) -> None:
    with pytest.raises(SchemaOutdated):
        schema.check(engine)

    assert inspect(engine).get_table_names() == []


def test_a_migration_waits_for_another_longer_than_a_call_would(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.storage.sql.session.WAIT_SECONDS", 1)
    url = new_database("postgresql")
    engine = open_engine(url)
    with psycopg.connect(url) as connection, ThreadPoolExecutor(1) as threads:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [schema._MIGRATION_LOCK])
        migrating = threads.submit(schema.migrate, engine)
        with pytest.raises(TimeoutError):
            migrating.result(timeout=2)
        connection.commit()
        migrating.result(timeout=SECONDS)
    schema.check(engine)
    engine.dispose()
