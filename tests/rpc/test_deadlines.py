"""Calls that are over: the server stops working for them, down to the database, while what held them up goes on."""

from __future__ import annotations

import contextlib
import itertools
import queue
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psycopg
import pytest
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import make_url

from modelregistry.v1.model_pb2 import Model, ModelVersion
from server.rpc.admission.receiving import PLACES_OF_EACH, WAITING
from server.storage.sql.repository import SqlRepository
from server.storage.sql.session import WAIT_SECONDS
from tests.builders import file_store
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.rpc.harness import METHODS, THREADS, Registry, User, path_of, request_of, serving

DEADLINE_SECONDS = 180
# Of a call that is to be over before what holds it up, and after it has begun.
SHORT_SECONDS = 0.5


class Scene(NamedTuple):
    """A version that was promoted once already, whoever may do so again, and what keeps anybody from writing."""

    registry: Registry
    admin: User
    source: ModelVersion
    target: Model
    url: str
    log: pytest.LogCaptureFixture

    def begin(self, rpc: str, timeout: float, **fields: Any) -> Any:
        """Begin a call, and return what it will be answered."""
        answer = GetMessageClass(METHODS[rpc].output_type)
        call = self.registry.channel.unary_unary(path_of(rpc), response_deserializer=answer.FromString)
        request = request_of(rpc, **fields).SerializeToString()
        return call.future(request, metadata=self.admin.metadata, timeout=timeout)

    def begin_write(self, rpc: str, timeout: float) -> Any:
        promotion = {"model_rid": self.target.rid, "source_model_version_rid": self.source.rid}
        if rpc == "PromoteVersion":
            return self.begin(rpc, timeout, **promotion, preview=True)
        return self.begin(rpc, timeout, promotions=[promotion])

    def version_count(self) -> int:
        branch = self.admin("GetBranch", model_rid=self.target.rid, branch="master")
        return int(branch.version_count)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let nobody else write to the branch, inside."""
        url = make_url(self.url)
        if url.get_backend_name() == "sqlite":
            with contextlib.closing(sqlite3.connect(str(url.database), isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                yield
        else:
            with psycopg.connect(self.url) as other:
                other.execute("SELECT FROM branches FOR UPDATE")
                yield
                other.rollback()

    def waiting(self) -> list[str]:
        """The statements with which processes of the database wait for a lock; SQLite has no processes."""
        if self.url.startswith("sqlite"):
            return []
        with psycopg.connect(self.url) as other:
            found = other.execute(
                "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return [query for (query,) in found]

    def is_held_up(self) -> bool:
        """Whether some call has come as far as it comes."""
        in_use = self.registry.repository.connections().in_use
        return in_use == 1 if self.url.startswith("sqlite") else bool(self.waiting())

    def lines(self, rpc: str) -> list[dict[str, Any]]:
        """What the log says of calls that have ended."""
        calls = [getattr(record, "fields", {}) for record in self.log.records if record.name == "modelregistry.calls"]
        return [line for line in calls if line["method"].endswith(f"/{rpc}")]


@pytest.fixture
def scene(migrated_url: str, open_repository: OpenRepository, caplog: pytest.LogCaptureFixture) -> Iterator[Scene]:
    with serving(open_repository(migrated_url)) as registry:
        admin = registry.user("admin")
        source, target = admin.create_version(admin.create_model("source")), admin.create_model("target")
        admin.promote(source, target)
        caplog.clear()
        caplog.set_level("INFO")
        yield Scene(registry, admin, source, target, migrated_url, caplog)


def code_of(call: Any) -> grpc.StatusCode:
    return call.exception(timeout=DEADLINE_SECONDS).code()


@pytest.mark.parametrize("rpc", ["PromoteVersion", "BatchPromoteVersions"])
def test_a_change_whose_time_is_up_is_given_up_while_what_it_waits_for_is_still_held(scene: Scene, rpc: str) -> None:
    with scene.held():
        assert code_of(scene.begin_write(rpc, SHORT_SECONDS)) == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: len(scene.lines(rpc)) == 1)
        until(lambda: not scene.waiting())
        assert scene.version_count() == 1
    [line] = scene.lines(rpc)
    assert line["code"] == "DEADLINE_EXCEEDED"
    assert line["milliseconds"] < WAIT_SECONDS * 1000, "it ended by itself"
    assert scene.admin.promote(scene.source, scene.target).version_number == 2


@pytest.mark.parametrize("rpc", ["PromoteVersion", "BatchPromoteVersions"])
def test_a_change_that_is_cancelled_is_given_up_while_what_it_waits_for_is_still_held(scene: Scene, rpc: str) -> None:
    with scene.held():
        call = scene.begin_write(rpc, DEADLINE_SECONDS)
        until(scene.is_held_up)
        call.cancel()
        until(lambda: len(scene.lines(rpc)) == 1)
        until(lambda: not scene.waiting())
        assert scene.version_count() == 1
    [line] = scene.lines(rpc)
    assert line["code"] == "CANCELLED"
    assert line["milliseconds"] < WAIT_SECONDS * 1000, "it ended by itself"
    assert scene.admin.promote(scene.source, scene.target).version_number == 2


def test_a_call_that_is_given_up_is_no_failure_of_the_service(scene: Scene) -> None:
    with scene.held():
        assert code_of(scene.begin_write("BatchPromoteVersions", SHORT_SECONDS)) == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: len(scene.lines("BatchPromoteVersions")) == 1)
    [line] = scene.lines("BatchPromoteVersions")
    assert "error" not in line
    assert [record for record in scene.log.records if record.levelname in {"WARNING", "ERROR", "CRITICAL"}] == []


def test_those_who_still_wait_are_served_when_one_that_waited_before_them_was_given_up(scene: Scene) -> None:
    with scene.held():
        first = scene.begin_write("PromoteVersion", DEADLINE_SECONDS)
        until(scene.is_held_up)
        others = [scene.begin_write("PromoteVersion", DEADLINE_SECONDS) for _ in range(THREADS - 1)]
        first.cancel()
        until(lambda: len(scene.lines("PromoteVersion")) == 1)
    numbers = [call.result(timeout=DEADLINE_SECONDS).version_number for call in others]
    assert sorted(numbers) == [*range(2, THREADS + 1)]
    assert scene.version_count() == THREADS


def test_among_many_who_give_up_the_others_are_served(scene: Scene) -> None:
    """Whenever an interruption comes, it hits no call but its own; and what was given up is there as a whole or not."""
    rpcs = itertools.cycle(["PromoteVersion", "BatchPromoteVersions", "PromoteVersion"])
    patient, hasty = [], []
    # At a time no more calls than a caller may have whose messages are on their way.
    at_once = (PLACES_OF_EACH + WAITING) // 3
    for number in range(40):
        if number >= at_once:
            assert patient[number - at_once].exception(timeout=DEADLINE_SECONDS) is None
        patient.append(scene.begin_write(next(rpcs), DEADLINE_SECONDS))
        # From one that is over on its way here to one that may just be answered.
        hasty.append(scene.begin_write(next(rpcs), 0.001 * (1 + number % 20)))
        hasty.append(scene.begin_write(next(rpcs), DEADLINE_SECONDS))
        hasty[-1].cancel()
    assert [call.exception(timeout=DEADLINE_SECONDS) for call in patient] == [None] * len(patient)
    # What was sent before this is there when it is answered.
    assert scene.version_count() > len(patient)
    until(lambda: len(scene.registry.chain.threads) == 0)

    listed = scene.admin("ListModelVersions", model_rid=scene.target.rid, page_size=1000)
    numbers = [version.version_number for version in listed.model_versions]
    assert numbers == [*range(len(numbers), 0, -1)]
    answered = 1 + len(patient) + sum(1 for call in hasty if not call.cancelled() and call.exception() is None)
    assert answered <= len(numbers) <= 1 + len(patient) + len(hasty)
    records = scene.admin("ListPromotions", model_rid=scene.target.rid, page_size=1000).promotions
    assert len(records) == len(numbers)
    assert [record for record in scene.log.records if record.levelname in {"WARNING", "ERROR", "CRITICAL"}] == []


class Stuck(SqlRepository):
    """A storage whose reads wait for a test, and which tells of them."""

    def __init__(self, sound: SqlRepository):
        super().__init__(sound._database)
        self.reads: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.goes_on = threading.Event()

    def read(self, query: Any) -> Any:
        self.reads.put(None)
        assert self.goes_on.wait(DEADLINE_SECONDS)
        return super().read(query)


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_call_that_was_over_before_a_thread_took_it_up_is_not_executed(
    new_database: NewDatabase,
    open_repository: OpenRepository,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    how: str,
) -> None:
    sound = open_repository(new_database("sqlite", migrated=True))
    stuck = Stuck(sound)
    with serving(stuck, files=file_store(sound, tmp_path)) as registry:
        admin = registry.user("admin")
        scene = Scene(registry, admin, ModelVersion(), Model(), "sqlite", caplog)
        # All threads but one, more than which no caller has.
        running = [scene.begin("ListModels", DEADLINE_SECONDS) for _ in range(THREADS - 1)]
        for _ in running:
            stuck.reads.get(timeout=DEADLINE_SECONDS)
        late = scene.begin("ListModels", SHORT_SECONDS if how == "deadline" else DEADLINE_SECONDS)
        until(lambda: len(registry.chain.threads) == THREADS)
        if how == "cancel":
            late.cancel()
        else:
            assert code_of(late) == grpc.StatusCode.DEADLINE_EXCEEDED
        # Its place is free at once.
        until(lambda: len(registry.chain.threads) == THREADS - 1)
        stuck.goes_on.set()
        assert [call.result(timeout=DEADLINE_SECONDS).models[:] for call in running] == [[]] * len(running)
        until(lambda: len(registry.chain.threads) == 0)
        assert stuck.reads.empty()
    stuck.close()
