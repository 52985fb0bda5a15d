"""Watchers of servers that are processes: killed, stopped, side by side, and a thousand at a time."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.event_service_pb2 import WatchEventsRequest
from modelregistry.v1.event_service_pb2_grpc import EventServiceStub
from modelregistry.v1.list_order_pb2 import LIST_ORDER_OLDEST_FIRST
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry_client import connect
from modelregistry_client.watching import Watch
from server.process.serve import DRAIN_SECONDS
from server.rpc.event_watch import CONNECTIONS
from tests.conftest import NewDatabase
from tests.processes import DEADLINE_SECONDS, OWN_CONNECTION, Server, until
from tests.rpc.harness import User
from tests.rpc.watching import Watching, watching

WATCHERS = 1000
WATCHERS_OF_A_CONNECTION = 200
PROMOTERS = 4
# Each at one of two workers, and not all at one, but once in 2,000 runs.
WATCHERS_OF_WORKERS = 12
SOME = 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cwd"


@contextmanager
def calling(server: Server, subject: str = "admin") -> Iterator[User]:
    with grpc.insecure_channel(server.address, OWN_CONNECTION) as channel:
        yield server.user(channel, subject)


def listed(user: User, cursor: str) -> list[str]:
    """The ids of all events behind a cursor, by pages."""
    ids: list[str] = []
    token = ""
    while True:
        page = user("ListEvents", after_cursor=cursor, order=LIST_ORDER_OLDEST_FIRST, page_token=token)
        ids += [event.id for event in page.events]
        token = page.next_page_token
        if not token:
            return ids


class Promoters:
    """Promote into branches of a model, over and over, through each of some servers, until they are told to stop."""

    def __init__(self, servers: list[Server], source: ModelVersion, target: Model):
        self._stopping = threading.Event()
        self.promoted = 0
        self._counting = threading.Lock()
        self._pool = ThreadPoolExecutor(PROMOTERS)
        given = zip(range(PROMOTERS), itertools.cycle(servers), strict=False)
        self._running = [self._pool.submit(self._go_on, server, number, source, target) for number, server in given]

    def _go_on(self, server: Server, number: int, source: ModelVersion, target: Model) -> None:
        with calling(server) as user:
            while not self._stopping.is_set():
                try:
                    user.promote(source, target, branch=f"branch-{number % 2}")
                except grpc.RpcError as error:
                    if error.code() == grpc.StatusCode.UNAVAILABLE:
                        return
                    raise
                with self._counting:
                    self.promoted += 1

    def stop(self) -> None:
        self._stopping.set()
        for running in self._running:
            running.result(DEADLINE_SECONDS)
        self._pool.shutdown()


def assert_branches_ascend(events: list[Event], user: User) -> None:
    last: Counter[str] = Counter()
    for event in events:
        if event.subject.HasField("promotion"):
            number = event.subject.promotion.version_number
            assert number == last[event.branch] + 1, (event.branch, last, number)
            last[event.branch] = number


def test_each_watcher_is_told_each_promotion_of_all_replicas_once_and_in_the_order_of_each_branch(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database("postgresql", migrated=True)
    with (
        Server(tmp_path / "cwd", "--database-url", url) as one,
        Server(tmp_path / "cwd", "--database-url", url) as other,
        calling(one) as here,
        calling(other) as there,
    ):
        source = here.create_version(here.create_model("source"))
        target = here.create_model("target")
        with watching(here) as near, watching(there) as far, watching(there, model_rid=target.rid) as narrow:
            streams = (near, far, narrow)
            starts = [stream.bookmark() for stream in streams]
            promoters = Promoters([one, other], source, target)
            until(lambda: promoters.promoted >= 200)
            promoters.stop()
            last = here.create_version(target, branch="last")
            for stream, start in zip(streams, starts, strict=True):
                told = stream.until(lambda event: event.model_version_rid == last.rid)
                assert [event.id for event in told] == listed(here, start)
                assert_branches_ascend(told, here)
                assert len(told) == promoters.promoted + 1


def test_whoever_goes_on_after_a_crash_misses_nothing_and_is_told_nothing_twice(
    backend: str, new_database: NewDatabase, folder: Path
) -> None:
    url = new_database(backend, migrated=True)
    told: list[Event] = []
    start = cursor = ""
    with Server(folder, "--database-url", url) as server, calling(server) as admin:
        source, target = admin.create_version(admin.create_model("source")), admin.create_model("target")
        watch = Watching(admin)
        start = watch.bookmark()
        promoters = Promoters([server], source, target)
        while promoters.promoted < 50:
            told.append(watch.next_event())
        server.kill()
        promoters.stop()
        rest, failure = watch.rest()
        told += [event for each in rest for event in each.events]
        assert failure.code == grpc.StatusCode.UNAVAILABLE
        cursor = watch.cursor
    with Server(folder, "--database-url", url) as server, calling(server) as admin:
        with watching(admin, after_cursor=cursor) as watch:
            last = admin.create_version(target, branch="last")
            told += watch.until(lambda event: event.model_version_rid == last.rid)
        assert [event.id for event in told] == listed(admin, start)
        assert_branches_ascend(told, admin)


def test_when_one_worker_of_several_is_killed_its_watchers_go_on_with_another_and_are_told_everything_once(
    backend: str, new_database: NewDatabase, folder: Path
) -> None:
    url = new_database(backend, migrated=True)
    with (
        Server(folder, "--workers", "2", "--database-url", url) as server,
        calling(server) as admin,
        ExitStack() as stack,
    ):
        source, target = admin.create_version(admin.create_model("source")), admin.create_model("target")
        start = admin("ListEvents").cursor
        token = server.token("admin")
        # Each with a connection of its own, so that both workers have some.
        registries = [
            stack.enter_context(connect(server.address, token, plaintext=True, options=OWN_CONNECTION))
            for _ in range(WATCHERS_OF_WORKERS)
        ]
        watches = [registry.watch_events(after_cursor=start) for registry in registries]
        told: list[list[Event]] = [[] for _ in watches]
        with ThreadPoolExecutor(len(watches)) as threads:
            running = [threads.submit(extend, *each) for each in zip(told, watches, strict=True)]
            made = [admin.promote(source, target) for _ in range(SOME)]
            until(lambda: all(len(each) == len(made) for each in told))
            killed = server.workers()[0]
            killed.kill()
            until(lambda: len(server.workers()) == 2 and killed not in server.workers())
            with calling(server) as another:
                made += [another.promote(source, target) for _ in range(SOME)]
            until(lambda: all(len(each) >= len(made) for each in told))
            for watch in watches:
                watch.close()
        for each in running:
            each.result()
        for each in told:
            assert [event.model_version_rid for event in each] == [version.rid for version in made]


def extend(told: list[Event], watch: Watch) -> None:
    for event in watch:
        told.append(event)  # noqa: PERF402 - the others look at what it has by now


def test_a_server_that_is_stopped_waits_for_no_watcher_and_each_goes_on_with_another(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database("postgresql", migrated=True)
    with Server(tmp_path / "cwd", "--database-url", url) as other, calling(other) as there:
        model = there.create_model("m")
        with (
            Server(tmp_path / "cwd", "--database-url", url) as server,
            calling(server) as here,
            watching(here, model_rid=model.rid) as watch,
        ):
            watch.bookmark()
            began = time.monotonic()
            server.stop()
            assert time.monotonic() - began < DRAIN_SECONDS
            [last], failure = watch.rest()
            assert not last.events
            assert (failure.code, failure.name) == (grpc.StatusCode.UNAVAILABLE, "ServerStopping")
        version = there.create_version(model)
        with watching(there, model_rid=model.rid, after_cursor=last.cursor) as watch:
            assert watch.next_event().model_version_rid == version.rid


def test_a_thousand_watchers_who_wait_take_no_thread_and_no_connection(new_database: NewDatabase, folder: Path) -> None:
    url = new_database("postgresql", migrated=True)
    with Server(folder, "--database-url", url) as server, calling(server) as admin, ExitStack() as stack:
        model = admin.create_model("m")
        admin("GrantRole", resource_rid=model.rid, principal="group:viewers", role=ROLE_VIEWER)
        [worker] = server.workers()
        open_streams(server, stack, 10, "early")
        told = stack.enter_context(watching(admin))
        told.bookmark()
        threads, connections, memory = worker.num_threads(), connections_of(url), worker.memory_info().rss
        calls = [
            call
            for number in range(WATCHERS // WATCHERS_OF_A_CONNECTION)
            for call in open_streams(server, stack, WATCHERS_OF_A_CONNECTION, f"watcher-{number}")
        ]
        grown = (worker.memory_info().rss - memory) / WATCHERS
        # Those of a fixed number that had nothing to do before.
        assert worker.num_threads() < threads + WATCHERS / 100
        assert connections_of(url) <= connections + CONNECTIONS
        # It was 27 KiB.
        assert grown < 100 * 2**10
        # And each is told what happens.
        version = admin.create_version(model)
        for call in calls:
            assert next(each for each in call if each.events).events[0].model_version_rid == version.rid


def open_streams(server: Server, stack: ExitStack, count: int, name: str) -> list[grpc.Call]:
    """Streams of viewers over one connection, each with its first bookmark; a principal has no more than 100."""
    channel = stack.enter_context(grpc.insecure_channel(server.address, OWN_CONNECTION))
    calls = []
    for number in range(count):
        if number % 100 == 0:
            token = server.token(f"{name}-{number}", "viewers")
        call = EventServiceStub(channel).WatchEvents(
            WatchEventsRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=DEADLINE_SECONDS
        )
        assert not next(call).events
        calls.append(call)
    return calls


def connections_of(url: str) -> int:
    """How many connections there are to a database."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert row
    return int(row[0])
