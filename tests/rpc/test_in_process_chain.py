"""Calls of this process itself meet the chain as those of gRPC do, and end as they do."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from server.core.errors import RequestTooLarge
from server.core.permissions import MODELS_READ
from server.rpc.in_process import InProcessCall, Outcome
from server.rpc.telemetry import CallObserver
from tests.conftest import NewDatabase, OpenRepository
from tests.rpc.harness import SOME_MODEL, Registry, User, path_of, request_of, serving

SECONDS = 60.0
MAX_MESSAGE_BYTES = 4 * 2**20


class Caller:
    """Makes calls of this process with the credentials of a user."""

    def __init__(self, registry: Registry, user: User) -> None:
        self._server = registry.in_process
        self._metadata = tuple((key, str(value)) for key, value in user.metadata)
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def begin(self, rpc: str, message: bytes | None = None, **fields: Any) -> InProcessCall:
        asked = request_of(rpc, **fields).SerializeToString() if message is None else message
        return self._server.begin(path_of(rpc), asked, self._metadata, "192.0.2.7", SECONDS, self._outcomes.put)

    def outcome(self) -> Outcome:
        return self._outcomes.get(timeout=SECONDS)

    def failure(self) -> str:
        """The name of the error of the next call that ends; that of its code, if it says nothing more."""
        outcome = self.outcome()
        assert outcome.code is not grpc.StatusCode.OK
        for key, value in outcome.trailing_metadata:
            if key == "grpc-status-details-bin":
                assert isinstance(value, bytes)
                info = error_details_pb2.ErrorInfo()
                status_pb2.Status.FromString(value).details[0].Unpack(info)
                return info.metadata["errorName"]
        return outcome.code.name


def test_a_call_is_answered_with_the_message_of_its_handler(registry: Registry) -> None:
    model = registry.user("admin").create_model("m")
    caller = Caller(registry, registry.user("admin"))
    # The token is unknown at first.
    for _ in range(2):
        caller.begin("GetModel", model_rid=model.rid)
        assert caller.outcome() == Outcome(grpc.StatusCode.OK, model)


def test_a_change_comes_from_the_address_of_its_client(registry: Registry) -> None:
    admin = registry.user("admin")
    caller = Caller(registry, admin)
    caller.begin("CreateModel", name="mine", parent_folder_rid=admin.folder)
    model = caller.outcome().answer
    [event] = admin("ListEvents", model_rid=model.rid, page_size=1).events
    assert event.peer == "192.0.2.7"


def test_what_refuses_a_call_is_told_as_over_grpc(registry: Registry) -> None:
    forged = registry.bearing(f"{registry.user('admin').metadata[0][1].removeprefix('Bearer ')}x")
    for user, rpc, message, name in [
        (registry.nobody(), "GetModel", None, "MissingCredentials"),
        (forged, "GetModel", None, "InvalidCredentials"),
        (User(registry.channel, (("authorization", "Basic x"),)), "GetModel", None, "InvalidCredentials"),
        (registry.user("reader", scopes=(MODELS_READ,)), "CreateModel", None, "ApiUsageDenied"),
        (registry.user("admin"), "GetModel", b"\xff", "InvalidArgument"),
        (registry.user("admin"), "GetModel", None, "InvalidArgument"),
    ]:
        caller = Caller(registry, user)
        for _ in range(2):
            caller.begin(rpc, message)
            assert caller.failure() == name


def test_a_message_has_the_same_bound_as_over_grpc(registry: Registry) -> None:
    caller = Caller(registry, registry.user("admin"))
    with pytest.raises(RequestTooLarge):
        caller.begin("GetModel", b"x" * (MAX_MESSAGE_BYTES + 1))


def test_refusals_beyond_the_bound_are_told_so_and_counted(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals, goes_on, has_begun = registry.chain.admission.refusals, threading.Event(), threading.Event()

    def keep() -> None:
        has_begun.set()
        assert goes_on.wait(SECONDS)

    refusals.submit(keep)
    assert has_begun.wait(SECONDS)
    monkeypatch.setattr(refusals, "_most_waiting", 2)
    caller = Caller(registry, registry.nobody())
    for _ in range(5):
        caller.begin("GetModel")
    assert [caller.failure() for _ in range(3)] == ["RESOURCE_EXHAUSTED"] * 3
    goes_on.set()
    assert [caller.failure() for _ in range(2)] == ["MissingCredentials"] * 2
    caller.begin("GetModel")
    assert caller.failure() == "MissingCredentials"
    assert "since too many came or were given up: 3" in caplog.text


def test_large_messages_count_as_over_grpc_and_are_not_held_by_a_refusal_that_is_told_later(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiving = registry.chain.admission.receiving
    monkeypatch.setattr(receiving, "_share_of_bytes", 0)
    caller = Caller(registry, registry.user("admin"))
    caller.begin("GetModel", model_rid=SOME_MODEL)
    assert caller.failure() == "ModelNotFound"  # The token is known now.
    message = b"x" * 2**20
    before = sys.getrefcount(message)
    call = caller.begin("CreateModelVersion", message)
    assert call.is_active()
    assert sys.getrefcount(message) == before
    assert caller.failure() == "Overloaded"
    assert receiving._bytes == 0


def test_a_call_that_is_cancelled_before_its_turn_gives_its_place_up(registry: Registry) -> None:
    caller, threads = Caller(registry, registry.user("admin")), registry.chain.threads
    goes_on, has_begun = threading.Event(), threading.Semaphore(0)

    def keep() -> None:
        has_begun.release()
        assert goes_on.wait(SECONDS)

    caller.begin("GetModel", model_rid=SOME_MODEL)
    assert caller.failure() == "ModelNotFound"
    for number in range(threads._count):
        threads.submit_for(f"user:{number}", keep)
    for _ in range(threads._count):
        assert has_begun.acquire(timeout=SECONDS)
    call = caller.begin("GetModel", model_rid=SOME_MODEL)
    assert len(threads) == threads._count + 1
    call.cancel()
    assert caller.outcome() == Outcome(grpc.StatusCode.CANCELLED)
    assert len(threads) == threads._count
    goes_on.set()


@pytest.fixture
def observed(
    new_database: NewDatabase, open_repository: OpenRepository
) -> Iterator[tuple[Registry, list[str], threading.Event]]:
    """A server that is slow to get ready for the first call of a method, and for which it was, till it may go on."""
    asked: list[str] = []
    goes_on = threading.Event()

    def observer_of(method: str) -> CallObserver | None:
        asked.append(method)
        assert goes_on.wait(SECONDS)
        return None

    repository = open_repository(new_database("sqlite", migrated=True))
    with serving(repository, observers_of=[observer_of]) as registry:
        yield registry, asked, goes_on
        goes_on.set()


def test_a_method_has_its_observers_once_though_its_first_calls_come_two_ways(
    observed: tuple[Registry, list[str], threading.Event],
) -> None:
    registry, asked, goes_on = observed
    caller = Caller(registry, registry.user("admin"))
    over_grpc = registry.channel.unary_unary(path_of("GetModel")).future(
        request_of("GetModel", model_rid=SOME_MODEL).SerializeToString(),
        metadata=registry.user("admin").metadata,
        timeout=SECONDS,
    )
    while not asked:
        assert not over_grpc.done()
    beginning = threading.Thread(target=caller.begin, args=("GetModel",), kwargs={"model_rid": SOME_MODEL})
    beginning.start()
    goes_on.set()
    assert caller.failure() == "ModelNotFound"
    assert over_grpc.exception(SECONDS).code() is grpc.StatusCode.NOT_FOUND
    beginning.join()
    assert asked == [path_of("GetModel")]
