"""Commits that last, and connections that do not: lost ones, refused ones."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import sql

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_OFF
from server.core.errors import Overloaded, StorageUnavailable
from server.storage.contract import Transaction
from server.storage.paging import PageRequest
from server.storage.sql.session import Session
from server.storage.sql.transaction import SqlTransaction
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.conftest import NewDatabase, OpenRepository
from tests.postgres import database_name
from tests.storage.conftest import Held, at_once
from tests.storage.inspection import at_commit, break_connection, execute, opened


@pytest.fixture
def postgres(new_database: NewDatabase) -> str:
    """A fresh, migrated database on PostgreSQL."""
    return new_database("postgresql", migrated=True)


def settings_at_commit(url: str, *statements: str) -> list[tuple[str, ...]]:
    """What each statement answers on each connection of a repository that commits a promotion there."""
    answers = []
    with opened(url) as (_, repository):
        model = add_model(repository)

        def ask(session: Session) -> None:
            answers.append(tuple(str(session.run(each)[0][0]) for each in statements))

        with at_commit(ask):
            # A connection while others are read through, one after that, and a new one.
            repository.read(lambda reader: append(repository, builders.version(model.rid)))
            append(repository, builders.version(model.rid))
            repository._pool._close_idle()
            append(repository, builders.version(model.rid))
    assert len(answers) == 3
    return answers


def test_sqlite_commits_to_the_disk_and_checks_foreign_keys(new_database: NewDatabase) -> None:
    pragmas = [f"PRAGMA {name}" for name in ("synchronous", "journal_mode", "foreign_keys")]

    answers = settings_at_commit(new_database("sqlite", migrated=True), *pragmas)

    assert answers == [("2", "wal", "1")] * 3


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        (None, "on"),
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "on"),
        ("remote_apply", "remote_apply"),
    ],
)
def test_postgresql_commits_to_the_disk_whatever_the_database_s_default(
    postgres: str, default: str | None, expected: str
) -> None:
    if default is not None:
        alter = "ALTER DATABASE {} SET synchronous_commit = {}"
        execute(postgres, sql.SQL(alter).format(sql.Identifier(database_name(postgres)), sql.Literal(default)))

    assert settings_at_commit(postgres, "SHOW synchronous_commit") == [(expected,)] * 3


def test_postgresql_commits_to_the_disk_whatever_the_url_asks_for(postgres: str) -> None:
    url = f"{postgres}?options=-csynchronous_commit%3Doff"

    assert settings_at_commit(url, "SHOW synchronous_commit") == [("on",)] * 3


# A connection that is lost


def break_all_connections(url: str) -> None:
    """End every backend that serves the database, and return when they are gone."""
    execute(
        url,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


def test_a_read_survives_the_loss_of_its_connection(postgres: str) -> None:
    with opened(postgres) as (_, repository):
        model = add_model(repository)
        # Several connections in the pool, all of them broken.
        repository.read(lambda reader: repository.read(lambda inner: repository.read(lambda innermost: None)))
        for _ in range(3):
            break_all_connections(postgres)
            assert repository.read(lambda reader: reader.get_model(model.rid, ADMIN)).model == model
        break_all_connections(postgres)
        repository.ping()


def test_a_read_survives_a_connection_that_is_lost_between_its_questions(postgres: str) -> None:
    runs = []

    with opened(postgres) as (_, repository):
        model = add_model(repository)

        def query(reader: Any) -> int:
            runs.append(reader.get_model(model.rid, ADMIN))
            if len(runs) == 1:
                break_all_connections(postgres)
            return len(reader.list_models(ADMIN, None, PageRequest(10)).items)

        assert repository.read(query) == 1
    assert len(runs) == 2


def test_a_change_whose_connection_is_lost_before_its_commit_runs_again_and_happens_once(postgres: str) -> None:
    runs = []

    with opened(postgres) as (_, repository):
        model = add_model(repository)
        new = builders.version(model.rid)

        def change(tx: Transaction) -> int:
            runs.append(None)
            number = tx.append_version(new, tx.put_content(new)).version_number
            if len(runs) == 1:
                break_all_connections(postgres)
            tx.get_branch(model.rid, "master", ADMIN)
            return number

        assert repository.write(change) == 1
        assert len(repository.read(lambda reader: builders.all_versions(reader, model.rid))) == 1
    assert len(runs) == 2


def test_a_change_whose_connection_was_lost_while_it_lay_idle_runs_again(postgres: str) -> None:
    with opened(postgres) as (_, repository):
        model = add_model(repository)
        for expected in (1, 2, 3):
            break_all_connections(postgres)
            assert append(repository, builders.version(model.rid)).version_number == expected


def test_a_change_whose_connection_is_lost_at_its_commit_is_not_run_again(postgres: str) -> None:
    runs = []

    with opened(postgres) as (_, repository):
        model = add_model(repository)
        new = builders.version(model.rid)

        def change(tx: Transaction) -> None:
            runs.append(None)
            tx.append_version(new, tx.put_content(new))

        with at_commit(partial(break_connection, postgres), once=True), pytest.raises(StorageUnavailable) as caught:
            repository.write(change)
        assert len(runs) == 1
        assert caught.value.retry_after is None  # Nobody may be told to do again what may have been done.

        # The pool is fit for use again, and nothing is half there.
        assert append(repository, builders.version(model.rid)).version_number == 1
        assert len(repository.read(lambda reader: builders.all_versions(reader, model.rid))) == 1


def test_what_may_have_been_done_is_not_called_undone_since_it_could_not_be_run_again(postgres: str) -> None:
    runs = []

    with opened(postgres) as (_, repository):
        model = add_model(repository)

        def change(tx: Transaction) -> None:
            runs.append(None)
            if len(runs) > 1:
                raise Overloaded
            tx.add_model(builders.model())

        with at_commit(partial(break_connection, postgres), once=True), pytest.raises(StorageUnavailable) as caught:
            repository.write(change, repeatable=True)
        assert len(runs) == 2
        assert caught.value.retry_after is not None
        assert add_model(repository) != model


def test_a_change_whose_connection_is_lost_after_the_commit_was_sent_may_have_happened_and_is_not_run_again(
    postgres: str,
) -> None:
    """The database commits, and dies before it says so."""
    runs = []

    with opened(postgres) as (_, repository):
        model = add_model(repository)
        new = builders.version(model.rid)

        def commit_and_break(session: Session) -> None:
            session.run("COMMIT")
            break_connection(postgres, session)

        def change(tx: Transaction) -> None:
            runs.append(None)
            tx.append_version(new, tx.put_content(new))

        with at_commit(commit_and_break, once=True), pytest.raises(StorageUnavailable):
            repository.write(change)
        stored = repository.read(lambda reader: builders.all_versions(reader, model.rid))
    assert len(runs) == 1
    assert [version.rid for version in stored] == [new.rid]


def test_a_serialization_failure_runs_the_change_again(postgres: str) -> None:
    """Two serializable transactions that read what the other writes: the database refuses one of them."""
    runs = [0, 0]
    both_have_read = threading.Barrier(2, timeout=180)

    with opened(postgres) as (_, repository):
        model = add_model(repository)
        digest = repository.write(lambda tx: tx.put_content(builders.version(model.rid)))

        def change(number: int, tx: SqlTransaction) -> None:
            runs[number] += 1
            tx.session.run("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            tx.list_versions(model.rid, f"branch {1 - number}", ADMIN, PageRequest(10))
            tx.list_branches(model.rid, ADMIN, PageRequest(10))
            if runs[number] == 1:
                both_have_read.wait()
            tx.append_version(builders.version(model.rid, f"branch {number}"), digest)

        at_once(2, lambda number: repository.write(lambda tx: change(number, tx)))
        branches = repository.read(lambda reader: reader.list_branches(model.rid, ADMIN, PageRequest(10)))

    assert sum(runs) > 2
    assert [(branch.name, branch.version_count) for branch in branches.items] == [("branch 0", 1), ("branch 1", 1)]


def test_promotions_succeed_whatever_isolation_the_database_has_by_default(postgres: str) -> None:
    name = sql.Identifier(database_name(postgres))
    execute(postgres, sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'").format(name))
    with opened(postgres) as (_, repository):
        model = add_model(repository)
        at_once(8, lambda _: [append(repository, builders.version(model.rid)) for _ in range(10)])
        assert repository.read(lambda reader: reader.get_branch(model.rid, "master", ADMIN)).version_count == 80


def test_a_database_that_became_a_standby_is_unavailable_until_it_takes_writes_again(postgres: str) -> None:
    name = sql.Identifier(database_name(postgres))
    with opened(postgres) as (_, repository):
        model = add_model(repository)
        execute(postgres, sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        break_all_connections(postgres)
        with pytest.raises(StorageUnavailable):
            append(repository, builders.version(model.rid))
        with psycopg.connect(postgres, autocommit=True, options="-c default_transaction_read_only=off") as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        assert append(repository, builders.version(model.rid)).version_number == 1


def test_a_role_without_rights_is_unavailable(postgres: str) -> None:
    with opened(postgres) as (_, repository):

        def change(tx: Any) -> None:
            tx.session.run("SET LOCAL ROLE pg_monitor")
            tx.add_model(builders.model())

        with pytest.raises(StorageUnavailable) as caught:
            repository.write(change)
        assert caught.value.retry_after is None


def test_a_replica_that_stops_in_mid_transaction_does_not_keep_its_locks(
    postgres: str, open_repository: OpenRepository
) -> None:
    stopping = open_repository(f"{postgres}?options=-cidle_in_transaction_session_timeout%3D200")
    model = add_model(stopping)
    append(stopping, builders.version(model.rid))
    held = Held()

    def stop(tx: Any) -> None:
        builders.lock(tx, model.rid)
        # The lock is there once something was answered.
        builders.branch_end(tx, model.rid)
        held(tx)

    with ThreadPoolExecutor(1) as threads:
        stopped = threads.submit(stopping.write, stop)
        held.wait_until_begun()
        assert append(open_repository(postgres), builders.version(model.rid)).version_number == 2
        assert not stopped.done()
        held.go_on()
        assert isinstance(stopped.exception(60), StorageUnavailable)


def test_a_change_of_which_nothing_was_answered_survives_the_loss_of_its_connection(postgres: str) -> None:
    with opened(postgres) as (_, repository):
        model = add_model(repository)
        # What is sent for the first time is prepared, which is answered.
        repository.write(lambda tx: tx.add_policy(builders.policy(model.rid, COMPATIBILITY_MODE_OFF), ADMIN.user))
        break_all_connections(postgres)
        repository.write(
            lambda tx: tx.add_policy(builders.policy(model.rid, COMPATIBILITY_MODE_ENFORCE, 2), ADMIN.user)
        )
        policy = repository.read(lambda reader: reader.get_policy(model.rid, "master"))
    assert policy.compatibility == COMPATIBILITY_MODE_ENFORCE


def test_bytes_come_back_whatever_the_database_prefers_to_show_them_as(postgres: str) -> None:
    alter = sql.SQL("ALTER DATABASE {} SET bytea_output = escape").format(sql.Identifier(database_name(postgres)))
    execute(postgres, alter)
    with opened(postgres) as (_, repository):
        model = add_model(repository)
        version = append(repository, builders.version(model.rid))
        found = repository.read(lambda reader: reader.find_version(version.rid, ADMIN))
    assert found is not None
    assert found.version == version
