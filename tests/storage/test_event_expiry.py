"""Events past their retention go, the oldest first; who goes on from one of them is told so. On every backend."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from server.core.errors import CursorExpired, CursorUnknown
from server.storage.contract import EventFilter, KeptEvent, Transaction
from server.storage.paging import PageRequest
from server.storage.sql.repository import SqlRepository
from server.storage.sql.tables import event_retention
from tests import builders
from tests.builders import ADMIN, ALL, add_model, append, promote
from tests.conftest import NewDatabase, OpenRepository
from tests.storage.conftest import Clock, GivenUp, Held
from tests.storage.inspection import rows

DAY = timedelta(days=1)
DAY_MS = 86_400_000


def kept(repository: SqlRepository) -> list[KeptEvent]:
    """All events, the oldest first."""
    keys = range(1, repository.settled_event().key + 1)
    return repository.read(
        lambda reader: reader.list_events(ADMIN, EventFilter(), keys, PageRequest(ALL), newest_first=False)
    ).items


def remove(repository: SqlRepository, most: int = ALL) -> int:
    return repository.write(lambda tx: tx.remove_old_events(DAY, most))


def removed_up_to(url: str) -> int:
    [row] = rows(url, event_retention)
    return row.removed_up_to


@pytest.fixture
def aged(timed: SqlRepository, clock: Clock) -> list[KeptEvent]:
    """Five events of two days ago, then one of now, one of two days ago, whose server's clock was behind, and one."""
    for ago in (2, 2, 2, 2, 2, 0, 2, 0):
        clock.now_ms -= ago * DAY_MS
        add_model(timed)
        clock.now_ms += ago * DAY_MS
    return kept(timed)


def test_the_oldest_go_so_many_at_a_time_and_none_behind_one_that_is_young(
    timed: SqlRepository, migrated_url: str, aged: list[KeptEvent]
) -> None:
    for most, removed, left in ((2, 2, 6), (2, 2, 4), (2, 1, 3), (2, 0, 3)):
        assert remove(timed, most) == removed
        assert [each.key for each in kept(timed)] == [each.key for each in aged[-left:]]
        assert removed_up_to(migrated_url) == aged[-left - 1].key


def test_one_that_is_as_old_as_events_are_kept_stays(timed: SqlRepository, clock: Clock) -> None:
    for _ in range(2):
        add_model(timed)
    clock.now_ms += DAY_MS
    assert remove(timed) == 0
    clock.now_ms += 1
    assert remove(timed) == 1


def test_the_newest_of_all_stays_and_its_key_is_not_given_again(timed: SqlRepository, clock: Clock) -> None:
    for _ in range(3):
        add_model(timed)
    [*_, newest] = kept(timed)
    clock.now_ms += 2 * DAY_MS

    assert remove(timed) == 2

    assert [each.key for each in kept(timed)] == [newest.key]
    assert remove(timed) == 0
    add_model(timed)
    assert [each.key > newest.key for each in kept(timed)] == [False, True]


def test_where_there_is_none_none_is_removed(timed: SqlRepository, migrated_url: str) -> None:
    assert remove(timed) == 0
    assert removed_up_to(migrated_url) == 0


def test_a_cursor_from_before_is_expired_and_that_of_the_last_one_removed_is_not(
    timed: SqlRepository, aged: list[KeptEvent]
) -> None:
    beginning = timed.read(lambda reader: reader.event_cursor(0))
    assert remove(timed) == 5
    for cursor in (beginning, *(each.event.cursor for each in aged[:4])):
        with pytest.raises(CursorExpired) as caught:
            timed.read(lambda reader, cursor=cursor: reader.event_key(cursor))
        assert caught.value.cursor == cursor
    for each in aged[4:]:
        assert timed.read(lambda reader, cursor=each.event.cursor: reader.event_key(cursor)) == each.key
    with pytest.raises(CursorUnknown):
        timed.read(lambda reader: reader.event_key("a cursor"))


def test_what_is_interrupted_has_removed_nothing(
    timed: SqlRepository, migrated_url: str, aged: list[KeptEvent]
) -> None:
    def remove_and_fail(tx: Transaction) -> None:
        assert tx.remove_old_events(DAY, 3) == 3
        raise GivenUp

    with pytest.raises(GivenUp):
        timed.write(remove_and_fail)

    assert [each.key for each in kept(timed)] == [each.key for each in aged]
    assert removed_up_to(migrated_url) == 0
    assert timed.read(lambda reader: reader.event_key(aged[0].event.cursor)) == aged[0].key


def test_two_at_once_remove_each_once(
    timed: SqlRepository, migrated_url: str, open_repository: OpenRepository, aged: list[KeptEvent], clock: Clock
) -> None:
    """The other one waits, and finds nothing of what it has chosen."""
    other, held = open_repository(migrated_url, clock_ms=clock), Held()

    def remove_and_hold(tx: Transaction) -> int:
        count = tx.remove_old_events(DAY, ALL)
        held(tx)
        return count

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(timed.write, remove_and_hold)
        held.wait_until_begun()
        second = threads.submit(remove, other)
        held.go_on()
        assert (first.result(60), second.result(60)) == (5, 0)
    assert removed_up_to(migrated_url) == aged[4].key


def test_on_postgresql_neither_promotions_nor_readers_wait_for_it(
    new_database: NewDatabase, open_repository: OpenRepository, clock: Clock
) -> None:
    """On SQLite one transaction at a time changes anything, so that many small ones are made of it."""
    url = new_database("postgresql", migrated=True)
    repository, collector, held = open_repository(url, clock_ms=clock), open_repository(url, clock_ms=clock), Held()
    model = add_model(repository)
    source = append(repository, builders.version(model.rid))
    for _ in range(5):
        add_model(repository)
    before = kept(repository)
    clock.now_ms += 2 * DAY_MS

    def remove_and_hold(tx: Transaction) -> int:
        count = tx.remove_old_events(DAY, ALL)
        held(tx)
        return count

    with ThreadPoolExecutor(1) as thread:
        removing = thread.submit(collector.write, remove_and_hold)
        held.wait_until_begun()
        try:
            promoted = promote(repository, source, model.rid)
            builders.grant(repository, model.rid, "user:jane", 1)
            listed = kept(repository)
            repository.write(lambda tx: tx.disable_principal("user:jane", "has left", ADMIN.user), settles=True)
        finally:
            held.go_on()
        assert removing.result(60) == len(before) - 1
    assert [each.key for each in listed[: len(before)]] == [each.key for each in before]
    assert listed[len(before)].event.model_version_rid == promoted.rid
    assert len(kept(repository)) == 4
