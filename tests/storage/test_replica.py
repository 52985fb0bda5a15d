"""Reads from a real standby: which callers it may answer, and what its loss costs a change."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from modelregistry.v1.model_pb2 import ModelVersion
from server.core import freshness
from server.core.errors import StorageUnavailable
from server.core.freshness import Freshness
from server.storage.contract import Reader, Transaction
from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.conftest import OpenRepository, migrate
from tests.postgres import PostgresServer, Standby
from tests.processes import until
from tests.storage.inspection import at_commit, break_connection

# Longer than a test.
MAX_LAG_SECONDS = 600


class Pair:
    """A repository over a primary that reads from its standby, which shows things a little later, always."""

    def __init__(self, primary: PostgresServer, standby: Standby, open_repository: OpenRepository) -> None:
        self.primary, self.standby = primary, standby
        self.repository = open_repository(
            primary.url(), read_database=database_of(standby.url()), max_lag_seconds=MAX_LAG_SECONDS
        )
        self.repository.ping()
        self.model = add_model(self.repository)

    def can_answer(self, caller: str, brought: str | None = None) -> bool:
        replica = self.repository._replica
        assert replica is not None
        return replica.can_answer(Freshness(caller, brought))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The standby is read, and shows nothing new meanwhile."""
        until(lambda: self.can_answer("user:nobody"))
        with psycopg.connect(self.standby.url(), autocommit=True) as standby:
            standby.execute("SELECT pg_wal_replay_pause()")
            asked = "SELECT pg_get_wal_replay_pause_state()"
            until(lambda: standby.execute(asked).fetchone() == ("paused",))
            yield
            standby.execute("SELECT pg_wal_replay_resume()")


@pytest.fixture
def pair(open_repository: OpenRepository) -> Iterator[Pair]:
    with PostgresServer() as primary:
        migrate(primary.url())
        with Standby(primary, recovery_min_apply_delay="50ms") as standby:
            yield Pair(primary, standby, open_repository)


@contextmanager
def call_of(caller: str) -> Iterator[Freshness]:
    """A call of a caller, in this context."""
    call = Freshness(caller, None)
    freshness.begin(call)
    yield call
    freshness._freshness.set(None)


def versions_seen(repository: SqlRepository, model_rid: str) -> list[ModelVersion]:
    def all_of(reader: Reader) -> list[ModelVersion]:
        return builders.all_versions(reader, model_rid)

    return repository.read_recent(all_of)


def test_a_standby_that_always_lags_a_little_is_read_while_there_are_changes_all_the_time(pair: Pair) -> None:
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            append(pair.repository, builders.version(pair.model.rid))

    with ThreadPoolExecutor(2) as threads:
        changing = [threads.submit(change) for _ in range(2)]
        try:
            until(lambda: pair.can_answer("user:nobody"))
        finally:
            done.set()
        for each in changing:
            each.result(60)


def test_how_old_the_standby_is_counts_from_when_it_was_opened_until_it_is_seen(pair: Pair) -> None:
    opened = time.monotonic()
    until(lambda: pair.repository.standby_seen_at() > opened)
    with pair.paused():
        append(pair.repository, builders.version(pair.model.rid))
        until(lambda: pair.repository.standby_seen_at() < time.monotonic() - 1)
        paused_at = time.monotonic()
    until(lambda: pair.repository.standby_seen_at() > paused_at)


def test_who_changed_something_is_not_answered_from_before_and_others_are_unless_they_bring_the_position(
    pair: Pair,
) -> None:
    with pair.paused():
        with call_of("user:jane") as call:
            version = append(pair.repository, builders.version(pair.model.rid))
            assert versions_seen(pair.repository, pair.model.rid) == [version]
        assert not pair.can_answer("user:jane")
        assert pair.can_answer("user:john")
        assert call.stored_at is not None
        assert not pair.can_answer("user:john", call.stored_at)
        with call_of("user:john"):
            assert versions_seen(pair.repository, pair.model.rid) == []
    until(lambda: pair.can_answer("user:jane") and pair.can_answer("user:john", call.stored_at))
    with call_of("user:john"):
        assert versions_seen(pair.repository, pair.model.rid) == [version]


@pytest.mark.parametrize("position", ["", "newest", "0/0", "A" * 4000, "é", ","])
def test_what_is_no_position_is_answered_by_the_primary(pair: Pair, position: str) -> None:
    until(lambda: pair.can_answer("user:john"))
    assert not pair.can_answer("user:john", position)


def test_a_caller_whose_change_has_an_unknown_outcome_is_not_answered_from_before(pair: Pair) -> None:
    with pair.paused(), call_of("user:jane"):
        # Nothing tells whether the COMMIT has arrived.
        breaking = at_commit(lambda session: break_connection(pair.primary.url(), session), once=True)
        with breaking, pytest.raises(StorageUnavailable) as raised:
            append(pair.repository, builders.version(pair.model.rid))
        assert raised.value.retry_after is None
        assert not pair.can_answer("user:jane")
        assert pair.can_answer("user:john")


def test_a_change_is_made_once_and_well_where_its_place_cannot_be_asked_for(
    pair: Pair, open_repository: OpenRepository
) -> None:
    with psycopg.connect(pair.primary.url(), autocommit=True) as owner:
        owner.execute("CREATE ROLE plain LOGIN")
        owner.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain")
        owner.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO plain")
        owner.execute("REVOKE EXECUTE ON FUNCTION pg_current_wal_flush_lsn() FROM PUBLIC")
    url = pair.primary.url().replace("postgres@", "plain@")
    standby = database_of(pair.standby.url())
    repository = open_repository(url, read_database=standby, max_lag_seconds=MAX_LAG_SECONDS)
    repository.ping()

    def change(tx: Transaction) -> ModelVersion:
        version = builders.version(pair.model.rid)
        return tx.append_version(version, tx.put_content(version))

    with call_of("user:jane") as call:
        assert repository.write(change).version_number == 1
        assert repository.write(change).version_number == 2
        assert call.stored_at is None
        assert [each.version_number for each in versions_seen(repository, pair.model.rid)] == [2, 1]
    assert repository.read(lambda r: r.get_branch(pair.model.rid, "master", ADMIN)).version_count == 2
