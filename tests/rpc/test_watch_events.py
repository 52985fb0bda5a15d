"""WatchEvents: what happens is told to whoever watches, once, in order, and as far as they may see it."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from sqlalchemy import text

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.event_service_pb2 import WatchEventsRequest, WatchEventsResponse
from modelregistry.v1.event_service_pb2_grpc import EventServiceStub
from modelregistry.v1.list_order_pb2 import LIST_ORDER_OLDEST_FIRST
from modelregistry.v1.model_pb2 import Model
from server.core.claims import LEEWAY
from server.core.errors import RegistryError
from server.core.event_types import NAMES, EventType
from server.core.permissions import SCOPES
from server.rpc import event_watch
from server.rpc.event_watch import MESSAGE_BYTES, WatchLimits
from server.rpc.held_streams import HeldStream
from server.rpc.telemetry import CallRecord
from tests.auth.forge import claims
from tests.builders import new_folder_rid
from tests.processes import until
from tests.rpc.harness import DEADLINE_SECONDS, SOME_MODEL, Registry, User, failure_of, serving
from tests.rpc.watching import Watching, watching
from tests.storage.inspection import open_engine

pytestmark = pytest.mark.database("shared")

CREATED, PROMOTED = NAMES[EventType.VERSION_CREATED], NAMES[EventType.VERSION_PROMOTED]
# A client whose streams take no more than what fits into the window that HTTP/2 gives at first.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]

serial = itertools.count(1)


@pytest.fixture
def model(admin: User) -> Model:
    return admin.create_model(f"watched {next(serial)}")


@contextmanager
def serving_watchers(registry: Registry, **limits: Any) -> Iterator[Registry]:
    """Another server over the same database, with limits of its own."""
    with serving(registry.repository, watch_limits=WatchLimits(**limits)) as other:
        yield other


def numbers(events: list[Event]) -> list[int]:
    return [event.subject.version.version_number for event in events]


# What is told


def test_what_happens_is_told_as_it_is_listed(admin: User, model: Model) -> None:
    with watching(admin, model_rid=model.rid) as watch:
        watch.bookmark()
        version = admin.create_version(model)
        told = watch.next()
        assert (told.events[0].type, told.events[0].model_version_rid) == (CREATED, version.rid)
        assert told.cursor == told.events[0].cursor
        [listed] = admin("ListEvents", model_rid=model.rid, page_size=1).events
        listed.cursor = told.cursor
        assert told.events[0] == listed


def test_what_has_happened_before_is_told_behind_a_cursor_and_only_then(admin: User, model: Model) -> None:
    # The model, and that its creator owns it.
    first = admin("ListEvents", model_rid=model.rid, page_size=1).events[0]
    for _ in range(3):
        admin.create_version(model)
    with (
        watching(admin, model_rid=model.rid) as now,
        watching(admin, model_rid=model.rid, after_cursor=first.cursor) as behind,
    ):
        now.bookmark()
        assert numbers([behind.next_event() for _ in range(3)]) == [1, 2, 3]
        # All that there was is told.
        behind.bookmark()
        admin.create_version(model)
        assert numbers([now.next_event()]) == numbers([behind.next_event()]) == [4]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("model_rid", {1, 2, 3}),
        ("parent_folder_rid", {1, 2, 3, 4}),
        ("branch", {2, 5}),
        ("types", {3, 6}),
    ],
)
def test_only_what_is_wanted_is_told_be_it_live_or_from_the_log(admin: User, name: str, wanted: set[int]) -> None:
    folder, elsewhere = new_folder_rid(), new_folder_rid()
    one, beside, far = (
        admin.create_model(label, place) for label, place in (("a", folder), ("b", folder), ("c", elsewhere))
    )
    fields = {
        "model_rid": one.rid,
        "parent_folder_rid": folder,
        "branch": f"branch-{next(serial)}",
        "types": [NAMES[EventType.BRANCH_LOCKED]],
    }
    branch = fields["branch"]
    with watching(admin) as everything, watching(admin, **{name: fields[name]}) as live:
        start = everything.bookmark()
        live.bookmark()
        versions = {
            1: admin.create_version(one).rid,
            2: admin.create_version(one, branch=branch).rid,
        }
        admin("LockBranch", model_rid=one.rid, branch="locked", reason="3")
        versions |= {4: admin.create_version(beside).rid, 5: admin.create_version(far, branch=branch).rid}
        admin("LockBranch", model_rid=far.rid, branch="locked", reason="6")

        def number_of(event: Event) -> int | None:
            if event.subject.HasField("branch_policy"):
                return int(event.subject.branch_policy.lock.reason) if event.model_rid in (one.rid, far.rid) else None
            return next((number for number, rid in versions.items() if rid == event.model_version_rid), None)

        def told(watch: Watching) -> list[int]:
            found: list[int] = []
            while len(found) < len(wanted):
                if (number := number_of(watch.next_event())) is not None:
                    found.append(number)
            return found

        assert told(live) == sorted(wanted)
        with watching(admin, **{name: fields[name]}, after_cursor=start) as again:
            assert told(again) == sorted(wanted)


def test_whoever_goes_on_anywhere_while_versions_come_misses_none_and_is_told_none_twice(
    registry: Registry, admin: User, model: Model
) -> None:
    count = 60

    def create() -> None:
        for _ in range(count):
            admin.create_version(model)

    with serving(registry.repository) as replica:
        servers = itertools.cycle([admin, dataclasses.replace(replica.user("admin"), folder=admin.folder)])
        with watching(admin, model_rid=model.rid) as watch:
            cursor = watch.bookmark()
        creating = threading.Thread(target=create)
        creating.start()
        told: list[Event] = []
        # A few events of each stream, on one server and on the other.
        while len(told) < count:
            with watching(next(servers), model_rid=model.rid, after_cursor=cursor) as watch:
                told += [watch.next_event() for _ in range(min(7, count - len(told)))]
                cursor = watch.cursor
        creating.join(DEADLINE_SECONDS)
        assert numbers(told) == list(range(1, count + 1))
        assert len({event.id for event in told}) == count


def test_more_than_may_wait_is_told_to_a_client_that_takes_it(
    admin: User, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that it is live, and behind, and live again.
    monkeypatch.setattr(event_watch, "LIVE_BYTES", 2_000)
    monkeypatch.setattr(event_watch, "CATCH_UP_BYTES", 1_000)
    with watching(admin, model_rid=model.rid) as watch:
        watch.bookmark()
        for _ in range(40):
            admin("LockBranch", model_rid=model.rid, reason="l" * 3000)
            admin("UnlockBranch", model_rid=model.rid)
        told = [watch.next_event().subject.branch_policy.revision for _ in range(80)]
        assert told == list(range(1, 81))


# Bookmarks


def test_what_happened_together_comes_together_and_in_order(admin: User, model: Model) -> None:
    beginning = admin("ListEvents", order=LIST_ORDER_OLDEST_FIRST, model_rid=model.rid).cursor
    versions = [admin.create_version(model).rid for _ in range(20)]
    call = EventServiceStub(admin.channel).WatchEvents(
        WatchEventsRequest(model_rid=model.rid, after_cursor=beginning),
        metadata=admin.metadata,
        timeout=DEADLINE_SECONDS,
    )
    told: list[str] = []
    count = 0
    for message in call:
        count += bool(message.events)
        told.extend(event.model_version_rid for event in message.events)
        assert not message.events or message.cursor == message.events[-1].cursor
        if len(told) == len(versions):
            call.cancel()
            break
    assert told == versions
    # All that had happened when the watcher came, and what was not known to be settled by then.
    assert count < len(versions) / 2


def test_messages_stay_small_whatever_happened_together(admin: User, model: Model) -> None:
    beginning = admin("ListEvents", order=LIST_ORDER_OLDEST_FIRST, model_rid=model.rid).cursor
    for _ in range(20):
        admin("LockBranch", model_rid=model.rid, reason="l" * 4000)
        admin("UnlockBranch", model_rid=model.rid)
    call = EventServiceStub(admin.channel).WatchEvents(
        WatchEventsRequest(model_rid=model.rid, after_cursor=beginning),
        metadata=admin.metadata,
        timeout=DEADLINE_SECONDS,
    )
    messages = list(itertools.takewhile(lambda each: each.events, call))
    call.cancel()
    assert len(messages) > 1
    assert max(each.ByteSize() for each in messages) <= MESSAGE_BYTES * 1.1
    revisions = [event.subject.branch_policy.revision for each in messages for event in each.events]
    assert revisions == list(range(1, 41))


def test_what_is_wanted_is_told_however_much_lies_between(
    admin: User, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.rpc.event_watch.CATCH_UP_WALK", 3)
    beginning = admin("ListEvents", order=LIST_ORDER_OLDEST_FIRST, model_rid=model.rid).cursor
    wanted = []
    for _ in range(3):
        wanted.append(admin.create_version(model, branch="wanted").rid)
        for _ in range(10):
            admin.create_version(model)
    with watching(admin, after_cursor=beginning, branch="wanted", model_rid=model.rid) as watch:
        assert [watch.next_event().model_version_rid for _ in wanted] == wanted
        assert watch.bookmark()
        version = admin.create_version(model, branch="wanted")
        assert watch.next_event().model_version_rid == version.rid


def test_a_silent_stream_has_bookmarks_that_are_never_alike_and_lead_on(
    registry: Registry, admin: User, model: Model
) -> None:
    with serving_watchers(registry, bookmark_seconds=0.1) as server:
        jane = server.user("jane")
        admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
        invisible = admin.create_model(f"invisible {next(serial)}")
        with watching(jane) as watch:
            silent = [watch.bookmark() for _ in range(3)]
            admin.create_version(invisible)
            # What she does not see makes no difference.
            silent += [watch.bookmark() for _ in range(3)]
        assert len({*silent}) == 6
        assert len({len(cursor) for cursor in silent}) == 1
        version = admin.create_version(model)
        for cursor in silent:
            with watching(jane, after_cursor=cursor) as watch:
                assert watch.next_event().model_version_rid == version.rid


# Who sees what


def test_a_role_that_is_taken_away_or_given_is_heeded_within_five_seconds(
    registry: Registry, admin: User, model: Model
) -> None:
    marker = admin.create_model(f"marker {next(serial)}")
    for rid in (model.rid, marker.rid):
        admin("GrantRole", resource_rid=rid, principal="user:jane", role=ROLE_VIEWER)
    with watching(registry.user("jane")) as watch:
        watch.bookmark()
        first = admin.create_version(model)
        assert watch.next_event().model_version_rid == first.rid
        admin("RevokeRole", resource_rid=model.rid, principal="user:jane")
        # Each version is followed by one of the marker, which she goes on seeing.
        assert heeded(admin, watch, model, marker, is_told=False) < 5
        admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
        assert heeded(admin, watch, model, marker, is_told=True) < 5


def heeded(admin: User, watch: Watching, model: Model, marker: Model, *, is_told: bool) -> float:
    """After how many seconds a watcher is told of a model, or not any more."""
    began = time.monotonic()
    while True:
        version, end = admin.create_version(model), admin.create_version(marker)
        told = watch.until(lambda event: event.model_version_rid == end.rid)  # noqa: B023 - it is called at once
        if (version.rid in {event.model_version_rid for event in told}) == is_told:
            return time.monotonic() - began
        assert time.monotonic() - began < DEADLINE_SECONDS


def test_what_is_told_is_what_the_log_tells_each_caller(registry: Registry, admin: User, model: Model) -> None:
    source, hidden = (admin.create_model(f"source {next(serial)}") for _ in range(2))
    roles = {"viewer": ROLE_VIEWER, "editor": ROLE_EDITOR, "owner": ROLE_OWNER}
    for name, role in roles.items():
        admin("GrantRole", resource_rid=model.rid, principal=f"user:{name}", role=role)
    admin("GrantRole", resource_rid=source.rid, principal="group:readers", role=ROLE_VIEWER)
    callers = [registry.user("viewer", "readers"), *map(registry.user, roles), registry.user("stranger"), admin]
    streams = [Watching(caller) for caller in callers]
    starts = [stream.bookmark() for stream in streams]
    for place in (source, hidden):
        admin.promote(admin.create_version(place), model)
    admin("SetBranchPolicy", model_rid=model.rid, promotion_only=True, allowed_sources={
        "sources": [{"model_rid": source.rid, "branch": "master"}, {"model_rid": hidden.rid, "branch": "master"}]
    })  # fmt: skip
    admin("GrantRole", resource_rid=model.rid, principal="user:someone", role=ROLE_VIEWER)
    admin("DisablePrincipal", principal="user:nobody", reason="gone")
    admin("EnablePrincipal", principal="user:nobody")
    told = {}
    for number, (caller, stream, start) in enumerate(zip(callers, streams, starts, strict=True)):
        listed = list(caller("ListEvents", after_cursor=start, order=LIST_ORDER_OLDEST_FIRST).events)
        told[number] = [stream.next_event() for _ in listed]
        for event in (*listed, *told[number]):
            event.ClearField("cursor")
        assert told[number] == listed
        stream.close()
    # And so differ by what each may see.
    assert [len(events) for events in told.values()] == [4, 3, 3, 4, 0, 8]


def test_an_invisible_model_is_not_found_as_one_that_is_absent(registry: Registry, model: Model) -> None:
    jane = registry.user("jane")
    for rid in (model.rid, SOME_MODEL):
        with watching(jane, model_rid=rid) as watch:
            told, failure = watch.rest()
            assert (told, failure.name, failure.parameters) == ([], "ModelNotFound", {"modelRid": rid})


# How it fails, and ends


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"after_cursor": "x"}, "CursorUnknown"),
        ({"after_cursor": "A" * 59}, "CursorUnknown"),
        ({"types": ["model.created"]}, "InvalidArgument"),
        ({"model_rid": "x"}, "InvalidArgument"),
        ({"branch": ""}, "InvalidBranchName"),
    ],
)
def test_a_stream_of_what_cannot_be_fails_at_once(admin: User, fields: dict[str, Any], name: str) -> None:
    with watching(admin, **fields) as watch:
        told, failure = watch.rest()
        assert (told, failure.name) == ([], name)
        assert failure.request_id


@pytest.mark.database("own")
def test_streams_end_when_the_log_is_no_longer_the_one_that_they_told_of(
    registry: Registry, migrated_url: str, admin: User, model: Model
) -> None:
    with watching(admin) as watch:
        watch.bookmark()
        admin.create_version(model)
        last = watch.until(lambda event: event.type == CREATED)[-1]
        # As a standby leaves it that took over and lacks what came last.
        change(migrated_url, "DELETE FROM events WHERE id = (SELECT max(id) FROM events)")
        _, failure = watch.rest()
        assert (failure.code, failure.name) == (grpc.StatusCode.OUT_OF_RANGE, "CursorUnknown")
        assert failure.parameters == {"cursor": last.cursor}
    with watching(admin, after_cursor=last.cursor) as watch:
        assert watch.rest()[1].name == "CursorUnknown"
    with watching(admin) as watch:
        watch.bookmark()
        version = admin.create_version(model)
        assert watch.next_event().model_version_rid == version.rid


@pytest.mark.database("own")
def test_what_is_no_longer_kept_is_not_left_out_in_silence(
    registry: Registry, migrated_url: str, admin: User, model: Model
) -> None:
    with watching(admin) as watch:
        cursor = watch.bookmark()
        for _ in range(2):
            admin.create_version(model)
            last = watch.next_event().cursor
        change(migrated_url, "DELETE FROM events WHERE id < (SELECT max(id) FROM events)")
        change(migrated_url, "UPDATE event_retention SET removed_up_to = (SELECT max(id) FROM events) - 1")
        # Whoever was told everything goes on.
        version = admin.create_version(model)
        assert watch.next_event().model_version_rid == version.rid
    with watching(admin, after_cursor=cursor) as watch:
        told, failure = watch.rest()
        assert (told, failure.name, failure.parameters) == ([], "CursorExpired", {"cursor": cursor})
    with watching(admin, after_cursor=last) as watch:
        assert watch.next_event().model_version_rid == version.rid


def change(url: str, statement: str) -> None:
    """Change what is stored behind the back of the server."""
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.mark.usefixtures("uncollected")
def test_a_stream_leaves_nothing_that_waits_for_the_garbage_collector(admin: User, model: Model) -> None:
    def left() -> int:
        return sum(isinstance(each, HeldStream | CallRecord) for each in gc.get_objects())

    def watch_and_end() -> None:
        with watching(admin, model_rid=model.rid) as watch:
            watch.bookmark()
            admin.create_version(model)
            watch.next_event()

    watch_and_end()
    gc.collect()
    before = left()
    for _ in range(20):
        watch_and_end()
    until(lambda: left() <= before)


def test_a_stream_has_one_line_in_the_log_when_it_has_ended(
    admin: User, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    request_id = f"watched-{next(serial)}"
    caplog.set_level("INFO", "modelregistry.calls")
    user = dataclasses.replace(admin, metadata=(*admin.metadata, ("x-request-id", request_id)))

    def lines() -> list[dict[str, Any]]:
        found = [getattr(record, "fields", {}) for record in caplog.records]
        return [fields for fields in found if fields.get("request_id") == request_id]

    with watching(user, model_rid=model.rid) as watch:
        watch.bookmark()
        assert lines() == []
    until(lambda: bool(lines()))
    [line] = lines()
    assert (line["method"], line["code"], line["user"]) == (
        "/modelregistry.v1.EventService/WatchEvents",
        "CANCELLED",
        "user:admin",
    )


def test_streams_beyond_the_bounds_are_refused_until_others_end(registry: Registry) -> None:
    with serving_watchers(registry, watchers=3, of_each_principal=2) as server:
        admin, jane = server.user("admin"), server.user("jane")
        with watching(admin) as first, watching(admin) as second:
            first.bookmark()
            second.bookmark()
            with watching(admin) as third:
                assert third.rest()[1].name == "Overloaded"
            with watching(jane) as other:
                other.bookmark()
                with watching(jane) as beyond:
                    assert beyond.rest()[1].name == "Overloaded"
            first.close()
            until(lambda: begins(admin))


def begins(user: User) -> bool:
    with watching(user) as watch:
        try:
            return bool(watch.bookmark())
        except grpc.RpcError:
            return False


def test_a_stream_ends_when_its_token_expires_and_its_last_message_is_a_bookmark(
    registry: Registry, admin: User, model: Model
) -> None:
    soon = int(time.time()) - LEEWAY + 3
    user = registry.bearing(registry.key.sign(claims(sub="admin", scope=" ".join(SCOPES), exp=soon)))
    with watching(user, model_rid=model.rid) as watch:
        first = watch.bookmark()
        told, failure = watch.rest()
        assert (failure.code, failure.name) == (grpc.StatusCode.UNAUTHENTICATED, "InvalidCredentials")
        assert_last_is_a_bookmark(told, first)
    assert time.time() >= soon + LEEWAY


def test_a_stream_ends_when_its_caller_is_disabled(registry: Registry, admin: User, model: Model) -> None:
    name = f"leaver{next(serial)}"
    admin("GrantRole", resource_rid=model.rid, principal=f"user:{name}", role=ROLE_VIEWER)
    with watching(registry.user(name)) as watch, watching(admin) as other:
        first = watch.bookmark()
        other.bookmark()
        admin("DisablePrincipal", principal=f"user:{name}", reason="has left")
        told, failure = watch.rest()
        assert (failure.name, failure.parameters) == ("PrincipalDisabled", {"principal": f"user:{name}"})
        assert_last_is_a_bookmark(told, first)
        # Others go on.
        admin.create_version(model)
        other.until(lambda event: event.type == CREATED and event.model_rid == model.rid)


def test_streams_end_when_the_server_stops_and_go_on_elsewhere(registry: Registry, admin: User, model: Model) -> None:
    with serving_watchers(registry) as server:
        user = server.user("admin")
        with watching(user, model_rid=model.rid) as watch:
            first = watch.bookmark()
            admin.create_version(model)
            watch.next_event()
            server.chain.end_streams()
            told, failure = watch.rest()
            assert (failure.code, failure.name) == (grpc.StatusCode.UNAVAILABLE, "ServerStopping")
            assert_last_is_a_bookmark(told, first)
        with watching(user) as late:
            assert late.rest()[1].name == "ServerStopping"
    version = admin.create_version(model)
    with watching(admin, model_rid=model.rid, after_cursor=watch.cursor) as watch:
        assert watch.next_event().model_version_rid == version.rid


def assert_last_is_a_bookmark(told: list[WatchEventsResponse], *others: str) -> None:
    assert told
    assert not told[-1].events
    cursors = [each.cursor for each in told]
    assert len({*cursors, *others}) == len(cursors) + len(others)


def test_a_client_that_does_not_read_is_given_up_and_costs_the_others_nothing(
    registry: Registry, admin: User, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, given_up, end_now = 120, threading.Event(), HeldStream.end_now

    def note(stream: HeldStream, error: RegistryError) -> None:
        end_now(stream, error)
        given_up.set()

    monkeypatch.setattr(HeldStream, "end_now", note)
    with (
        serving_watchers(registry, stall_seconds=1) as server,
        grpc.insecure_channel(server.address, SMALL_WINDOW) as channel,
    ):
        reader = server.user("admin")
        slow = EventServiceStub(channel).WatchEvents(
            WatchEventsRequest(model_rid=model.rid), metadata=reader.metadata, timeout=DEADLINE_SECONDS
        )
        first = [next(slow)]
        with watching(reader, model_rid=model.rid) as watch:
            watch.bookmark()
            for _ in range(count // 2):
                admin("LockBranch", model_rid=model.rid, reason="l" * 4000)
                admin("UnlockBranch", model_rid=model.rid)
            told = [watch.next_event().subject.branch_policy.revision for _ in range(count)]
            assert told == list(range(1, count + 1))
        assert given_up.wait(DEADLINE_SECONDS)
        with pytest.raises(grpc.RpcError) as ended:
            first.extend(slow)
        failure = failure_of(ended.value)
        assert (failure.code, failure.name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WatcherTooSlow")
        revisions = [event.subject.branch_policy.revision for each in first for event in each.events]
        assert 0 < len(revisions) < count
        assert revisions == list(range(1, len(revisions) + 1))
        assert failure.parameters == {"cursor": first[-1].cursor}
        with watching(reader, model_rid=model.rid, after_cursor=first[-1].cursor) as watch:
            rest = [watch.next_event().subject.branch_policy.revision for _ in range(count - len(revisions))]
        assert revisions + rest == list(range(1, count + 1))
