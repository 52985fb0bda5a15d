"""Through a pooler that gives each transaction another server connection, nothing that is promised gets lost."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from psycopg import sql

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, Grant
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF
from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.core.errors import Overloaded
from server.storage.contract import Transaction
from server.storage.paging import PageRequest
from server.storage.sql.repository import SqlRepository
from server.storage.sql.session import WAIT_SECONDS
from tests import builders
from tests.builders import ADMIN, add_model, all_versions, append, version
from tests.conftest import OpenRepository, migrate
from tests.e2e.test_going_on import connected, following
from tests.e2e.test_watching import PROMOTERS, assert_branches_ascend
from tests.following import FOLLOWERS
from tests.pooler.pgbouncer import PgBouncer
from tests.postgres import DEADLINE_SECONDS, PostgresServer, create_database, database_name, folder_open_to_all
from tests.processes import Server, until
from tests.rpc.harness import request_of, serving
from tests.rpc.watching import watching
from tests.storage.conftest import Held, at_once
from tests.storage.inspection import statements

PROMOTIONS_OF_EACH = 20

SETTINGS = {
    "synchronous_commit": "on",
    "lock_timeout": f"{WAIT_SECONDS}s",
    "statement_timeout": "5min",
    "idle_in_transaction_session_timeout": f"{WAIT_SECONDS}s",
    "random_page_cost": "1.1",
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server on which a COMMIT that does not ask to last is lost for certain, if the server is killed soon."""
    with PostgresServer(wal_writer_delay="10s", synchronous_commit="off") as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    url = create_database(postgres.url())
    migrate(url)
    return url


@pytest.fixture
def pooler(postgres: PostgresServer) -> Iterator[PgBouncer]:
    with PgBouncer(postgres.url()) as pooler:
        yield pooler


@pytest.fixture
def pooled(database: str, pooler: PgBouncer) -> str:
    """The URL of a migrated database through the pooler.

    This lets no client in before it has a server connection of its own again, which takes long on a busy machine.
    """
    return f"{pooler.url(database_name(database))}?connect_timeout={DEADLINE_SECONDS}"


def show(executor: Any) -> dict[str, str]:
    """What the settings are for a reader or a transaction."""
    return {name: executor.session.run(f"SHOW {name}")[0][0] for name in SETTINGS}


def test_each_transaction_has_the_settings_that_promises_depend_on(
    pooled: str, pooler: PgBouncer, open_repository: OpenRepository
) -> None:
    repository = open_repository(pooled)
    for _ in range(3):
        assert repository.write(show) == SETTINGS
        assert repository.read(show) == SETTINGS
        pooler.replace_server_connections()


def test_a_stronger_choice_of_the_operator_stays(
    pooled: str, database: str, pooler: PgBouncer, open_repository: OpenRepository
) -> None:
    chosen = {"synchronous_commit": "remote_apply", "lock_timeout": "3s", "random_page_cost": "1"}
    with psycopg.connect(database, autocommit=True) as connection:
        for name, value in chosen.items():
            alter = sql.SQL("ALTER DATABASE {} SET {} = {}")
            name_of_database = sql.Identifier(database_name(database))
            connection.execute(alter.format(name_of_database, sql.Identifier(name), sql.Literal(value)))
    pooler.replace_server_connections()
    repository = open_repository(pooled)
    assert repository.write(show) == {**SETTINGS, **chosen}
    assert repository.read(show) == {**SETTINGS, **chosen}


Change = Callable[[SqlRepository, Model, ModelVersion], str]


def promote(repository: SqlRepository, target: Model, source: ModelVersion) -> str:
    """Promote."""
    return builders.promote(repository, source, target.rid).rid


def create(repository: SqlRepository, target: Model, source: ModelVersion) -> str:
    """Store a version."""
    return append(repository, version(target.rid)).rid


@pytest.mark.parametrize("change", [promote, create])
def test_no_acknowledged_change_is_lost_when_the_database_is_killed(
    postgres: PostgresServer, pooled: str, pooler: PgBouncer, open_repository: OpenRepository, change: Change
) -> None:
    repository = open_repository(pooled)
    source_model, target = add_model(repository), add_model(repository)
    source = append(repository, version(source_model.rid))
    append(repository, version(target.rid))
    for _ in range(3):
        pooler.replace_server_connections()
        acknowledged = change(repository, target, source)
        postgres.kill()
        postgres.start()
        stored = [each.rid for each in repository.read(lambda reader: all_versions(reader, target.rid))]
        assert acknowledged in stored


def test_each_wait_for_a_table_has_a_bound(
    pooled: str, database: str, pooler: PgBouncer, open_repository: OpenRepository
) -> None:
    """A migration, or an operator by hand, has the tables; and calls have no deadline."""
    repository = open_repository(pooled)
    source_model, target = add_model(repository), add_model(repository)
    source = append(repository, version(source_model.rid))
    append(repository, version(target.rid))
    calls: list[Callable[[], object]] = [
        lambda: repository.read(lambda reader: reader.list_versions(target.rid, "master", ADMIN, PageRequest(10))),
        lambda: append(repository, version(target.rid)),
    ]
    pooler.replace_server_connections()
    with psycopg.connect(database) as other, ThreadPoolExecutor(len(calls)) as threads:
        other.execute("LOCK TABLE versions")
        begin = time.monotonic()
        for running in [threads.submit(call) for call in calls]:
            with pytest.raises(Overloaded):
                running.result(6 * WAIT_SECONDS)
        assert time.monotonic() - begin < 3 * WAIT_SECONDS
    assert builders.promote(repository, source, target.rid).version_number == 2


def test_many_callers_share_few_server_connections(pooled: str, open_repository: OpenRepository) -> None:
    """Each statement comes often enough to be prepared, and would then be missing on the other connection."""
    repository = open_repository(pooled)
    source_model, target = add_model(repository), add_model(repository)
    source = append(repository, version(source_model.rid))

    def work(number: int) -> None:
        for _ in range(20):
            builders.promote(repository, source, target.rid, branch=f"branch {number}")
            repository.read(lambda reader: reader.get_branch(target.rid, f"branch {number}", ADMIN))

    at_once(8, work)
    branches = repository.read(lambda reader: reader.list_branches(target.rid, ADMIN, PageRequest(10))).items
    assert [branch.version_count for branch in branches] == [20] * 8


def test_what_a_call_does_ends_with_the_call(pooled: str, database: str, open_repository: OpenRepository) -> None:
    repository = open_repository(pooled)
    with serving(repository) as registry:
        admin = registry.user("admin")
        target = admin.create_model("m")
        source = admin.create_version(target)
        with builders.held(open_repository(database), source):
            with pytest.raises(grpc.RpcError) as late:
                admin.send("PromoteVersion", promotion_of(source, target), timeout=2)
            assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            with psycopg.connect(database, autocommit=True) as other:
                until(lambda: other.execute(WAITING).fetchone() == (0,))
        assert admin.promote(source, admin.create_model("n")).version_number == 1


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def promotion_of(source: ModelVersion, target: Model) -> bytes:
    fields = {"model_rid": target.rid, "source_model_version_rid": source.rid, "preview": True}
    return request_of("PromoteVersion", **fields).SerializeToString()


def test_a_server_migrates_serves_and_is_ready(postgres: PostgresServer, pooler: PgBouncer, tmp_path: Any) -> None:
    url = pooler.url(database_name(create_database(postgres.url())))
    migrate(url)
    with Server(tmp_path / "cwd", "--database-url", url) as server, grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        source, target = admin.create_version(admin.create_model("a")), admin.create_model("b")
        for number in range(1, 11):
            assert admin.promote(source, target).version_number == number
            pooler.replace_server_connections()


def test_no_event_is_settled_while_one_with_a_smaller_key_can_come(
    pooled: str, pooler: PgBouncer, open_repository: OpenRepository
) -> None:
    repository, held = open_repository(pooled), Held()
    model = add_model(repository)
    before = repository.settled_event()
    until(lambda: repository.settled_event_by_now() == before)

    def change(tx: Transaction) -> None:
        tx.add_policy(builders.policy(model.rid, COMPATIBILITY_MODE_OFF), "user:jane")
        # What is sent goes to the database with the next question.
        tx.get_policy(model.rid, "master")
        held(tx)

    with ThreadPoolExecutor(2) as threads, statements() as sent:
        changing = threads.submit(repository.write, change)
        held.wait_until_begun()
        add_model(repository)
        for _ in range(5):
            # Each look by another server connection.
            assert {repository.settled_event_by_now() for _ in range(5)} == {before}
            pooler.replace_server_connections()
        looks = sum("virtualtransaction" in each.statement for each in sent)
        settling = threads.submit(repository.settled_event)
        until(lambda: sum("virtualtransaction" in each.statement for each in sent) >= looks + 2)
        assert not settling.done()
        held.go_on()
        changing.result(60)
        newest = settling.result(60)
    assert newest.key == before.key + 2
    until(lambda: repository.settled_event_by_now() == newest)


def test_watchers_and_readers_of_two_servers_are_told_everything_once(
    pooled: str, pooler: PgBouncer, tmp_path: Path
) -> None:
    with (
        Server(tmp_path / "one", "--database-url", pooled) as one,
        Server(tmp_path / "other", "--database-url", pooled) as other,
        connected(one, other) as [here, there],
        ThreadPoolExecutor(PROMOTERS + len(FOLLOWERS)) as threads,
    ):
        source, target = here.create_version(here.create_model("source")), here.create_model("target")

        def promote(number: int) -> list[str]:
            user, branch = (here, there)[number % 2], f"branch-{number % 3}"
            rids = []
            for _ in range(PROMOTIONS_OF_EACH):
                # With an id, which a server repeats by itself where a connection was taken from it in a COMMIT.
                rids.append(user.promote(source, target, branch=branch, request_id=str(uuid.uuid4())).rid)
                # Not all the time, which would leave the servers no connection.
                if number == 0:
                    pooler.replace_server_connections()
            return rids

        with watching(here) as near, watching(there) as far, following(threads, [here, there]) as followers:
            for stream in (near, far):
                stream.bookmark()
            promoting = [threads.submit(promote, number) for number in range(PROMOTERS)]
            made = [rid for each in promoting for rid in each.result()]
            last = here.create_version(target, branch="last")
            for stream in (near, far):
                told = stream.until(lambda event: event.model_version_rid == last.rid)
                assert sorted(event.model_version_rid for event in told) == sorted([*made, last.rid])
                assert_branches_ascend(told, here)
        for follower in followers:
            follower.catch_up(there)
            follower.require_all(here, set(made))


def test_a_change_of_what_decides_waits_for_what_was_decided_without_it(
    pooled: str, open_repository: OpenRepository
) -> None:
    """Each look at that is by another transaction, and may be by another server connection."""
    repository, held = open_repository(pooled), Held()
    model = add_model(repository)

    def decide(tx: Transaction) -> None:
        builders.lock(tx, model.rid)
        builders.branch_end(tx, model.rid)
        held(tx)

    given = Grant(resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER)
    with ThreadPoolExecutor(2) as threads, statements() as sent:
        deciding = threads.submit(repository.write, decide)
        held.wait_until_begun()
        changing = threads.submit(repository.write, lambda tx: tx.set_grant(given, "user:admin"), settles=True)
        until(lambda: sum("virtualtransaction" in each.statement for each in sent) >= 2)
        assert not changing.done()
        held.go_on()
        deciding.result(60)
        changing.result(60)


def test_a_pooler_that_was_unpacked_somewhere_is_told_where_its_libraries_are() -> None:
    with tempfile.TemporaryDirectory(dir=folder_open_to_all()) as folder:
        # It is run by an account without rights where this is root.
        Path(folder).chmod(0o755)
        program = Path(folder) / "pgbouncer"
        program.write_text('#!/bin/sh\necho "they are in $LD_LIBRARY_PATH"\nexit 1\n')
        program.chmod(0o755)
        elsewhere = PgBouncer("postgresql://postgres@127.0.0.1:1/any", program, {"LD_LIBRARY_PATH": "such a folder"})
        with pytest.raises(AssertionError, match="they are in such a folder"), elsewhere:
            pass
