"""Too many calls at once: those beyond the bound are refused at once, the others are answered, and then all is well."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.model_service_pb2 import CreateModelRequest, GetModelRequest
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.core.config import Limits
from server.rpc.chain import WRITE_THREADS
from server.rpc.threads import WAITING
from server.storage.contract import Reader, Transaction
from server.storage.sql.repository import SqlRepository
from tests.builders import add_model
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.rpc.harness import THREADS, failure_of, file_store, serving

T = TypeVar("T")

# Of one caller.
PLACES = THREADS - 1 + WAITING
TOO_MANY = 20
DEADLINE_SECONDS = 180


class Stuck(SqlRepository):
    """A storage whose reads wait for a test."""

    def __init__(self, sound: SqlRepository):
        super().__init__(sound._database)
        self.goes_on = threading.Event()
        self.reads = 0

    def read(self, query: Callable[[Reader], T]) -> T:
        self.reads += 1
        assert self.goes_on.wait(DEADLINE_SECONDS)
        return super().read(query)


def test_calls_beyond_the_bound_are_refused_at_once_and_the_others_are_answered(
    new_database: NewDatabase, open_repository: OpenRepository, tmp_path: Path
) -> None:
    sound = open_repository(new_database("sqlite", migrated=True))
    model = add_model(sound)
    stuck = Stuck(sound)
    limits = Limits(max_streams=PLACES + TOO_MANY)
    with serving(stuck, files=file_store(sound, tmp_path), limits=limits) as registry:
        admin = registry.user("admin")
        get_model = ModelServiceStub(registry.channel).GetModel
        ended: queue.SimpleQueue[grpc.Future[Model]] = queue.SimpleQueue()
        for number in range(PLACES + TOO_MANY):
            call = get_model.future(GetModelRequest(model_rid=model.rid), metadata=admin.metadata, timeout=180)
            call.add_done_callback(ended.put)
            # One behind the other: of messages that are on their way, a caller may have fewer.
            taken = min(number + 1, PLACES)
            until(lambda: len(registry.chain.threads) == taken)  # noqa: B023 - it is asked here and now
        for _ in range(TOO_MANY):
            failure = failure_of(ended.get(timeout=DEADLINE_SECONDS).exception())
            assert (failure.code, failure.name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
            assert failure.retry_seconds
        # All the others wait; probes are answered all the same, and a call of another caller has a thread at once.
        assert ended.empty()
        assert HealthStub(registry.channel).Check(HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        assert stuck.reads == THREADS - 1
        other = get_model.future(
            GetModelRequest(model_rid=model.rid), metadata=registry.user("other").metadata, timeout=DEADLINE_SECONDS
        )
        until(lambda: stuck.reads == THREADS)
        stuck.goes_on.set()
        assert failure_of(other.exception()).name == "ModelNotFound"
        assert [ended.get(timeout=DEADLINE_SECONDS).result() for _ in range(PLACES)] == [model] * PLACES
        assert admin("GetModel", model_rid=model.rid) == model


class StuckWrites(SqlRepository):
    """A storage whose changes wait for a test."""

    def __init__(self, sound: SqlRepository):
        super().__init__(sound._database)
        self.goes_on = threading.Event()

    def write(self, change: Callable[[Transaction], T], *, repeatable: bool = False) -> T:
        assert self.goes_on.wait(DEADLINE_SECONDS)
        return super().write(change, repeatable=repeatable)


def test_reads_are_answered_while_all_threads_for_changes_wait(
    new_database: NewDatabase, open_repository: OpenRepository, tmp_path: Path
) -> None:
    sound = open_repository(new_database("sqlite", migrated=True))
    model = add_model(sound)
    stuck = StuckWrites(sound)
    with serving(stuck, files=file_store(sound, tmp_path)) as registry:
        admin = registry.user("admin")
        create = ModelServiceStub(registry.channel).CreateModel
        waiting = [
            create.future(
                CreateModelRequest(name=str(number), parent_folder_rid=model.parent_folder_rid),
                metadata=admin.metadata,
                timeout=DEADLINE_SECONDS,
            )
            for number in range(WRITE_THREADS + 1)
        ]
        assert admin("GetModel", model_rid=model.rid) == model
        assert not any(call.done() for call in waiting)
        stuck.goes_on.set()
        assert {call.result().name for call in waiting} == {str(number) for number in range(WRITE_THREADS + 1)}
