"""Calls whose message does not come: they hold up neither the others nor what refuses them, and they end."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from server.auth import tokens
from server.auth.credentials import VERIFIERS
from server.core.config import Limits
from server.core.errors import Overloaded
from server.core.permissions import MODELS_READ
from server.rpc import chain
from server.rpc import streams as open_streams
from server.rpc.admission.receiving import LARGE_BYTES, PLACES_OF_EACH, STRANGERS
from server.rpc.health import SERVING
from tests.builders import model_api
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.rpc.harness import THREADS, Registry, failure_of, path_of, serving

SECONDS = 180
READ = path_of("GetModel")
CHANGE = path_of("PromoteVersion")
CHECK = "/grpc.health.v1.Health/Check"
MANY = 3 * THREADS


@pytest.fixture
def registry(new_database: NewDatabase, open_repository: OpenRepository) -> Iterator[Registry]:
    """A server that waits long for messages, as far as a test goes."""
    with serving(
        open_repository(new_database("sqlite", migrated=True)), limits=Limits(receive_timeout=300)
    ) as registry:
        yield registry


@pytest.fixture
def impatient(new_database: NewDatabase, open_repository: OpenRepository) -> Iterator[Registry]:
    """A server that waits for a message for a moment."""
    with serving(
        open_repository(new_database("sqlite", migrated=True)), limits=Limits(receive_timeout=0.5)
    ) as registry:
        yield registry


@contextmanager
def half_open(
    registry: Registry, path: str, metadata: Any = (), count: int = MANY, sent: tuple[bytes, ...] = ()
) -> Iterator[list[Any]]:
    """Calls on a connection of their own whose headers are sent, these messages, and then nothing."""
    leaving = threading.Event()

    def messages() -> Iterator[bytes]:
        yield from sent
        leaving.wait()

    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(registry.address, options=options) as channel:
        call = channel.stream_unary(path)
        calls = [call.future(messages(), metadata=metadata, timeout=SECONDS) for _ in range(count)]
        try:
            yield calls
        finally:
            leaving.set()
            for each in calls:
                each.cancel()


def first_codes(calls: list[Any], count: int) -> list[grpc.StatusCode]:
    """How the first of the calls ended that did, whichever these are."""
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for call in calls:
        call.add_done_callback(ended.put)
    return [ended.get(timeout=SECONDS).code() for _ in range(count)]


@pytest.mark.parametrize("path", [READ, CHANGE, path_of("UploadModelFiles"), path_of("DownloadModelFiles")])
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer x"),)], ids=["nothing", "no token"])
def test_who_shows_no_token_is_refused_before_any_message(registry: Registry, path: str, metadata: Any) -> None:
    name = "InvalidCredentials" if metadata else "MissingCredentials"
    with half_open(registry, path, metadata) as calls:
        failures = [failure_of(call.exception(SECONDS)) for call in calls]
        assert {(failure.code, failure.name) for failure in failures} == {(grpc.StatusCode.UNAUTHENTICATED, name)}
        assert len({failure.instance_id for failure in failures}) == MANY


def test_a_token_for_other_calls_is_refused_before_any_message(registry: Registry) -> None:
    reader = registry.user("reader", scopes=(MODELS_READ,))
    assert reader.failure("GetModel", model_rid="x").name == "InvalidArgument"
    with half_open(registry, CHANGE, reader.metadata) as calls:
        names = {failure_of(call.exception(SECONDS)).name for call in calls}
        assert names == {"ApiUsageDenied"}


def test_a_forged_token_is_refused_before_any_message(registry: Registry) -> None:
    token = registry.key.sign({"sub": "x"}) + "x"
    with half_open(registry, READ, (("authorization", f"Bearer {token}"),)) as calls:
        names = {failure_of(call.exception(SECONDS)).name for call in calls}
        assert names == {"InvalidCredentials"}


def test_half_open_calls_of_one_caller_hold_up_nobody_else(registry: Registry) -> None:
    greedy, other = registry.user("greedy"), registry.user("admin")
    model = other.create_model("m")
    source = other.create_version(model)
    paths = [READ, CHANGE, path_of("CreateModelVersion"), path_of("ListModels")]
    with (
        half_open(registry, paths[0], greedy.metadata, THREADS + 2) as reads,
        half_open(registry, paths[1], greedy.metadata, THREADS + 2) as changes,
        half_open(registry, paths[2], greedy.metadata, THREADS + 2) as creations,
    ):
        for _ in range(MANY):
            assert other("GetModel", model_rid=model.rid) == model
        assert other.promote(source, other.create_model("n")).version_number == 1
        assert other.create_version(model).version_number == 2
        assert other.download(other.create_version_with_files(model, b"data")) == b"data"
        assert registry.nobody().failure("GetModel", model_rid=model.rid).name == "MissingCredentials"
        assert not any(call.done() for call in [*reads, *changes, *creations])


def test_a_message_that_does_not_come_in_time_ends_its_call(
    impatient: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "modelregistry.calls")
    admin = impatient.user("admin")
    with half_open(impatient, CHANGE, admin.metadata, PLACES_OF_EACH + 2) as calls:
        failures = [failure_of(call.exception(SECONDS)) for call in calls]
    assert {(f.code, f.name) for f in failures} == {(grpc.StatusCode.DEADLINE_EXCEEDED, "RequestTimeout")}
    # And is in the log, with who made it.
    lines = [record.fields for record in caplog.records if record.fields["method"] == CHANGE]  # type: ignore[attr-defined]
    assert [(line["code"], line["user"]) for line in lines] == [("DEADLINE_EXCEEDED", "user:admin")] * len(calls)
    assert all(line["milliseconds"] >= 500 for line in lines)
    assert admin.create_model("m").name == "m"


def test_calls_of_a_caller_beyond_its_share_wait_for_their_turn(registry: Registry) -> None:
    admin = registry.user("admin")
    with half_open(registry, READ, admin.metadata, PLACES_OF_EACH) as first:
        until(lambda: len(registry.chain.admission.receiving._due) == PLACES_OF_EACH)
        later = registry.channel.unary_unary(path_of("ListModels")).future(
            b"", metadata=admin.metadata, timeout=SECONDS
        )
        assert registry.user("other").failure("GetModel", model_rid="x").name == "InvalidArgument"
        assert not later.done()
        first[0].cancel()
        later.result(SECONDS)


def test_a_call_that_ends_without_a_message_is_told_so(registry: Registry) -> None:
    admin = registry.user("admin")
    call = registry.channel.stream_unary(READ)
    with pytest.raises(grpc.RpcError) as refused:
        call(iter(()), metadata=admin.metadata, timeout=SECONDS)
    failure = failure_of(refused.value)
    assert (failure.code, failure.name) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidArgument")
    assert failure.violations == [("", "the call ended without a message")]


def test_probes_are_answered_whoever_holds_calls_open(registry: Registry) -> None:
    registry.health.tell(SERVING)
    stub = health_pb2_grpc.HealthStub(registry.channel)
    admin = registry.user("admin")
    with (
        half_open(registry, CHECK, count=4 * STRANGERS) as checks,
        half_open(registry, "/grpc.health.v1.Health/Watch", count=4 * STRANGERS) as watches,
        half_open(registry, READ, admin.metadata),
    ):
        for _ in range(10):
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status == SERVING
        # Those that came first have made room for the others.
        assert set(first_codes([*checks, *watches], 7 * STRANGERS)) == {grpc.StatusCode.CANCELLED}
        registry.readiness.start()
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status == SERVING


def test_reflection_answers_whoever_holds_its_streams_open(registry: Registry) -> None:
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    stub = reflection_pb2_grpc.ServerReflectionStub(registry.channel)
    with half_open(registry, path, count=STRANGERS + chain.STREAMS) as streams:
        for _ in range(10):
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            [answer] = stub.ServerReflectionInfo(iter([request]), timeout=SECONDS)
            assert answer.list_services_response.service
        assert set(first_codes(streams, chain.STREAMS)) == {grpc.StatusCode.CANCELLED}


@pytest.mark.parametrize("has_begun", [False, True], ids=["before its message", "behind it"])
def test_one_client_does_not_end_the_reflection_of_another(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    monkeypatch.setattr(open_streams, "YOUNG_SECONDS", SECONDS)
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    requests: queue.Queue[Any] = queue.Queue()
    reflect = reflection_pb2_grpc.ServerReflectionStub(registry.channel).ServerReflectionInfo
    answers = reflect(iter(requests.get, None), timeout=SECONDS)
    if has_begun:
        requests.put(request)
        assert next(answers).list_services_response.service
    most, sent = (chain.STREAMS, (request.SerializeToString(),)) if has_begun else (STRANGERS, ())
    with half_open(registry, path, count=2 * most, sent=sent) as streams:
        assert set(first_codes(streams, most)) == {grpc.StatusCode.CANCELLED}
        requests.put(request)
        assert next(answers).list_services_response.service
        requests.put(None)
        assert list(answers) == []
        [answer] = reflect(iter([request]), timeout=SECONDS)
        assert answer.list_services_response.service


def test_watchers_beyond_the_bound_are_told_that_there_is_nothing_to_watch(
    new_database: NewDatabase, open_repository: OpenRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "WATCHES", 4)
    with serving(open_repository(new_database("sqlite", migrated=True))) as registry:
        watch = health_pb2_grpc.HealthStub(registry.channel).Watch
        open_ones = [watch(health_pb2.HealthCheckRequest(), timeout=SECONDS) for _ in range(4)]
        for each in open_ones:
            next(each)
        with pytest.raises(grpc.RpcError) as refused:
            next(watch(health_pb2.HealthCheckRequest(), timeout=SECONDS))
        # To clients whose service config has them watch, this means: call without.
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        registry.health.tell(SERVING)
        assert {next(each).status for each in open_ones} == {SERVING}


class SlowKeys:
    """An issuer's keys for which a token waits."""

    def __init__(self, keys: Any) -> None:
        self._keys = keys
        self.asked = threading.Semaphore(0)
        self.goes_on = threading.Event()

    def find(self, kid: str | None, algorithm: str) -> Any:
        self.asked.release()
        assert self.goes_on.wait(SECONDS)
        return self._keys.find(kid, algorithm)

    def find_without_refresh(self, kid: str | None, algorithm: str) -> Any:
        return self._keys.find_without_refresh(kid, algorithm)


def test_unknown_tokens_hold_up_neither_known_ones_nor_who_has_none(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = registry.user("admin")
    model = known.create_model("m")
    verifier: tokens.TokenVerifier = registry.chain.admission._credentials._verifier
    slow = SlowKeys(verifier._keys)
    monkeypatch.setattr(verifier, "_keys", slow)
    get_model = registry.channel.unary_unary(READ)
    message = b"\x0a" + bytes([len(model.rid)]) + model.rid.encode()
    places = VERIFIERS + 96
    users = [registry.user(f"admin{number}") for number in range(places)]
    waiting = [get_model.future(message, metadata=user.metadata, timeout=SECONDS) for user in users]
    for _ in range(VERIFIERS):
        assert slow.asked.acquire(timeout=SECONDS)
    # Another connection is needed for nothing: they came one behind the other.
    refused = registry.user("late").failure("GetModel", model_rid=model.rid)
    assert (refused.name, refused.retry_seconds) == ("Overloaded", 1)
    assert known("GetModel", model_rid=model.rid) == model
    assert registry.nobody().failure("GetModel", model_rid=model.rid).name == "MissingCredentials"
    slow.goes_on.set()
    names = {failure_of(call.exception(SECONDS)).name for call in waiting}
    assert names == {"ModelNotFound"}
    assert registry.user("late").failure("GetModel", model_rid=model.rid).name == "ModelNotFound"


def test_refusals_beyond_the_bound_are_told_so_and_counted(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = registry.chain.admission.refusals
    goes_on = threading.Event()
    refusals.submit(lambda: goes_on.wait(SECONDS))
    monkeypatch.setattr(refusals, "_most_waiting", 2)
    get_model = registry.channel.unary_unary(READ)
    calls = [get_model.future(b"", timeout=SECONDS) for _ in range(5)]
    assert first_codes(calls, 3) == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3
    goes_on.set()
    names = [failure_of(call.exception(SECONDS)).name for call in calls]
    assert sorted(names) == ["", "", "", "MissingCredentials", "MissingCredentials"]
    assert registry.nobody().failure("GetModel").name == "MissingCredentials"
    assert "since too many came or were given up: 3" in caplog.text


def test_strangers_keep_no_known_caller_from_the_reason_of_a_refusal(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = registry.chain.admission.refusals
    goes_on = threading.Event()
    refusals.submit(lambda: goes_on.wait(SECONDS))
    monkeypatch.setattr(refusals, "_most_waiting", 0)
    reader = registry.user("reader", scopes=(MODELS_READ,))
    # The token is unknown at first.
    assert [reader.failure("CreateModel").name for _ in range(2)] == ["ApiUsageDenied"] * 2
    goes_on.set()


def test_a_refusal_that_is_held_back_does_not_hold_the_message(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a thousand of them would hold 4 GiB that count nowhere."""
    admission, held = registry.chain.admission, []
    add = admission.delayed_refusals.add

    def noted(then: Callable[[], None]) -> bool:
        held.extend(cell.cell_contents for cell in then.__closure__ or ())  # type: ignore[attr-defined]
        return add(then)

    monkeypatch.setattr(admission.delayed_refusals, "add", noted)
    monkeypatch.setattr(admission.receiving, "_share_of_bytes", 0)
    model = registry.user("admin").create_model("m")
    large = {"model_rid": model.rid, "model_api": model_api(), "conda_requirements": ["x" * LARGE_BYTES]}
    assert registry.user("admin").failure("CreateModelVersion", **large).name == "Overloaded"
    [error] = [each for each in held if isinstance(each, Overloaded)]
    assert error.__traceback__ is None
