"""The log of events as storage keeps it: found by time without an index, and cursors of a log that is another now."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, func, select, text, update

from modelregistry.v1.event_pb2 import Event
from server.core.errors import CursorUnknown
from server.storage.contract import EventFilter, KeptEvent, LogEnd
from server.storage.paging import PageRequest
from server.storage.sql.event_log import SLACK_MS
from server.storage.sql.repository import SqlRepository
from server.storage.sql.tables import events, opaque_keys
from tests import builders
from tests.builders import ADMIN, add_model
from tests.conftest import NewDatabase, OpenRepository
from tests.storage.conftest import NOW_MS, Clock
from tests.storage.inspection import open_engine


def listed(
    repository: SqlRepository, *, newest_first: bool = False, after: int = 0, **wanted: object
) -> list[KeptEvent]:
    """All events behind a key, or those that are wanted."""
    settled = repository.settled_event()
    page = PageRequest(1000)
    keys = range(after + 1, settled.key + 1)
    return repository.read(
        lambda reader: reader.list_events(ADMIN, EventFilter(**wanted), keys, page, newest_first=newest_first)  # type: ignore[arg-type]
    ).items


def cursor_of(repository: SqlRepository, key: int) -> str:
    return repository.read(lambda reader: reader.event_cursor(key))


def key_of(repository: SqlRepository, cursor: str) -> int:
    return repository.read(lambda reader: reader.event_key(cursor))


def time_of(event: Event) -> int:
    return event.time.ToMilliseconds()


def test_events_are_found_by_their_time_wherever_that_is(timed: SqlRepository, clock: Clock) -> None:
    # Days with many events and with none, and clocks of servers that differ by minutes.
    for number in range(120):
        clock.now_ms = NOW_MS + (number // 10) * 3_600_000 + (600_000 if number % 3 else 0) + number
        add_model(timed)
    everything = listed(timed)
    times = [time_of(kept.event) for kept in everything]
    assert times != sorted(times)
    bounds = sorted({*times[::17], NOW_MS - SLACK_MS - 1, NOW_MS, max(times) + SLACK_MS + 1, NOW_MS + 7_200_000 + 1})
    for since in (None, *bounds):
        for until in (None, *bounds):
            wanted = [
                kept.key
                for kept, time in zip(everything, times, strict=True)
                if (since is None or time >= since) and (until is None or time < until)
            ]
            assert [kept.key for kept in listed(timed, since_ms=since, until_ms=until)] == wanted, (since, until)
            found = listed(timed, newest_first=True, since_ms=since, until_ms=until)
            assert [kept.key for kept in found] == wanted[::-1], (since, until)


def test_no_events_are_found_by_time_where_there_are_none(repository: SqlRepository) -> None:
    assert listed(repository, since_ms=NOW_MS, until_ms=NOW_MS + 1) == []
    assert repository.settled_event() == LogEnd()


def test_a_cursor_of_an_empty_log_is_a_place_before_all(repository: SqlRepository) -> None:
    cursor = cursor_of(repository, 0)
    assert key_of(repository, cursor) == 0
    model = add_model(repository)
    [kept] = listed(repository, after=key_of(repository, cursor))
    assert kept.event.subject.model == model


def test_each_event_has_a_cursor_that_leads_to_it(repository: SqlRepository) -> None:
    for _ in range(3):
        add_model(repository)
    for kept in listed(repository):
        assert key_of(repository, kept.event.cursor) == kept.key
        assert key_of(repository, cursor_of(repository, kept.key)) == kept.key


def test_a_cursor_of_another_registry_is_unknown(
    repository: SqlRepository, backend: str, new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    url = new_database(backend, migrated=True)
    engine = open_engine(url)
    with engine.begin() as connection:
        # Databases of tests are copies of one, with one secret.
        connection.execute(update(opaque_keys).values(key=bytes(range(16))))
    engine.dispose()
    other = open_repository(url)
    for each in (repository, other):
        add_model(each)
    for cursor in (cursor_of(other, 0), cursor_of(other, 1)):
        with pytest.raises(CursorUnknown):
            key_of(repository, cursor)


def test_a_cursor_of_a_future_that_was_lost_is_unknown(repository: SqlRepository, migrated_url: str) -> None:
    """As after a restore from a backup, or a failover that lost what was committed last."""
    for _ in range(6):
        add_model(repository)
    kept, lost = listed(repository)[:3], listed(repository)[3:]
    engine = open_engine(migrated_url)
    with engine.begin() as connection:
        connection.execute(delete(events).where(events.c.id > kept[-1].key))
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT setval('events_id_seq', :last)"), {"last": kept[-1].key})
    for each in kept:
        assert key_of(repository, each.event.cursor) == each.key
    for each in lost:
        with pytest.raises(CursorUnknown):
            key_of(repository, each.event.cursor)
    # Others get the same keys.
    for _ in range(3):
        add_model(repository)
    with engine.begin() as connection:
        assert connection.scalar(select(func.max(events.c.id))) == lost[-1].key
    engine.dispose()
    for each in lost:
        with pytest.raises(CursorUnknown):
            key_of(repository, each.event.cursor)
    assert repository.settled_event().key == lost[-1].key
    assert [each.key for each in listed(repository, after=key_of(repository, kept[-1].event.cursor))] == [
        each.key for each in lost
    ]


def test_what_is_imported_is_told_of_as_of_now(timed: SqlRepository, clock: Clock) -> None:
    clock.now_ms = NOW_MS
    old = builders.model()
    old.created_time.FromMilliseconds(NOW_MS - 10_000_000_000)
    timed.write(lambda tx: tx.add_model(old))
    [kept] = listed(timed)
    assert time_of(kept.event) == NOW_MS
    assert kept.event.subject.model.created_time == old.created_time
