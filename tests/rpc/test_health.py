"""Readiness follows the database."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.rpc.health import CALL_SECONDS, LIVENESS, MAX_FAILURES, METHOD
from server.rpc.server import SERVICES
from server.rpc.telemetry import CallRecord
from server.storage.sql import migrate as schema
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.conftest import NewDatabase, OpenRepository
from tests.postgres import PostgresServer
from tests.rpc.harness import THREADS, Registry, serving
from tests.storage.inspection import open_engine

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEADLINE_SECONDS = 180


def until(stub: health_pb2_grpc.HealthStub, wanted: int, after: Callable[[], object]) -> None:
    """Watch the overall health, do something, and return when it is as wanted: on a busy machine that takes a while."""
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
    next(watch)
    after()
    for answer in watch:
        if answer.status == wanted:
            watch.cancel()
            return
    raise AssertionError("the watch ended")


def test_readiness_follows_the_database_down_and_up_again(open_repository: OpenRepository) -> None:
    with PostgresServer() as postgres:
        engine = open_engine(postgres.url())
        schema.migrate(engine)
        engine.dispose()
        repository = open_repository(postgres.url())
        with serving(repository) as registry:
            stub = health_pb2_grpc.HealthStub(registry.channel)
            until(stub, SERVING, after=registry.readiness.start)
            until(stub, NOT_SERVING, after=postgres.kill)
            failure = registry.user("admin").failure("ListModels")
            assert (failure.code, failure.name) == (grpc.StatusCode.UNAVAILABLE, "StorageUnavailable")
            assert failure.retry_seconds
            until(stub, SERVING, after=postgres.start)
            assert registry.user("admin")("ListModels") is not None
            registry.readiness.stop()
            assert stub.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING


class Ping:
    """A question to the storage whose answer can be held back."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.asked: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __call__(self) -> frozenset[str]:
        self.asked.put(None)
        assert self.answers.wait(DEADLINE_SECONDS)
        return frozenset()

    def wait_until_asked(self) -> None:
        self.asked.get(timeout=DEADLINE_SECONDS)


@pytest.fixture
def ping(repository: SqlRepository, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ping]:
    """The question that the servers of this test ask."""
    ping = Ping()
    monkeypatch.setattr(repository, "ping", ping)
    yield ping
    ping.answers.set()


def test_a_database_that_hangs_is_not_ready(ping: Ping, registry: Registry) -> None:
    stub = health_pb2_grpc.HealthStub(registry.channel)
    until(stub, SERVING, after=registry.readiness.start)
    until(stub, NOT_SERVING, after=ping.answers.clear)
    until(stub, SERVING, after=ping.answers.set)


def test_one_answer_that_takes_long_is_no_outage(ping: Ping, registry: Registry) -> None:
    stub = health_pb2_grpc.HealthStub(registry.channel)
    until(stub, SERVING, after=registry.readiness.start)
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
    assert next(watch).status == SERVING
    # Before it served, and when it began to ask itself.
    for _ in range(2):
        ping.wait_until_asked()
    ping.answers.clear()
    ping.wait_until_asked()
    # The next one waits for the thread that this one has, and for no longer than the server's patience.
    with pytest.raises(queue.Empty):
        ping.asked.get(timeout=CALL_SECONDS)
    ping.answers.set()
    for _ in range(MAX_FAILURES + 1):
        ping.wait_until_asked()
    registry.health.close()
    assert next(watch).status == NOT_SERVING
    watch.cancel()


def test_a_server_that_carries_calls_out_and_answers_none_is_not_ready(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.readiness.start()

    def lose_the_answer(*_: object) -> None:
        raise RuntimeError

    stub = health_pb2_grpc.HealthStub(registry.channel)
    until(stub, NOT_SERVING, after=lambda: monkeypatch.setattr(CallRecord, "end", lose_the_answer))
    # And lives, so that no kubelet restarts what a restart would not mend.
    until(stub, SERVING, after=monkeypatch.undo)
    assert stub.Check(health_pb2.HealthCheckRequest(service=LIVENESS)).status == SERVING


@pytest.mark.parametrize(
    "metadata",
    [(), (("x-self-check", ""),), (("x-self-check", "0" * 32),)],
)
def test_the_self_check_is_not_there_for_others(registry: Registry, metadata: tuple[tuple[str, str], ...]) -> None:
    call = registry.channel.unary_unary(METHOD)
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", metadata=metadata, timeout=DEADLINE_SECONDS)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    twice = registry.chain.self_check.credentials * 2
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", metadata=twice, timeout=DEADLINE_SECONDS)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_probes_are_answered_while_every_thread_waits_for_a_branch(
    open_repository: OpenRepository, new_database: NewDatabase
) -> None:
    # A connection for each that waits, as a server has them, for whom they wait for, and for the probe.
    repository = open_repository(new_database("postgresql", migrated=True), pool_size=THREADS + 2)
    with serving(repository) as registry, ThreadPoolExecutor(THREADS) as threads:
        admin = registry.user("admin")
        model = admin.create_model("m")
        source = admin.create_version(model)
        with builders.held(repository, source):
            waiting = [threads.submit(admin.promote, source, model) for _ in range(THREADS)]
            stub = health_pb2_grpc.HealthStub(registry.channel)
            until(stub, SERVING, after=registry.readiness.start)
            assert not any(promotion.done() for promotion in waiting)
        numbers = sorted(promotion.result().version_number for promotion in waiting)
    assert numbers == list(range(3, 3 + THREADS))


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_each_service_tells_its_health_without_credentials(registry: Registry, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(registry.channel)
    until(stub, SERVING, after=registry.readiness.start)
    assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


def test_the_health_of_every_service_is_listed(registry: Registry) -> None:
    registry.health.tell(SERVING)
    listed = health_pb2_grpc.HealthStub(registry.channel).List(health_pb2.HealthListRequest()).statuses
    told = {name: answer.status for name, answer in listed.items()}
    assert told == dict.fromkeys(("", *SERVICES, LIVENESS), SERVING)


def test_a_server_lives_while_its_database_does_not(registry: Registry) -> None:
    stub = health_pb2_grpc.HealthStub(registry.channel)
    for tell in (lambda: registry.health.tell(NOT_SERVING), registry.health.close):
        tell()
        told = {name: answer.status for name, answer in stub.List(health_pb2.HealthListRequest()).statuses.items()}
        assert told == {**dict.fromkeys(("", *SERVICES), NOT_SERVING), LIVENESS: SERVING}
        assert stub.Check(health_pb2.HealthCheckRequest(service=LIVENESS)).status == SERVING


def test_an_unknown_service_is_not_found_but_can_be_watched(registry: Registry) -> None:
    stub = health_pb2_grpc.HealthStub(registry.channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="no.Such"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="no.Such"), timeout=DEADLINE_SECONDS)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_a_watcher_is_told_each_change_once(registry: Registry) -> None:
    watch = health_pb2_grpc.HealthStub(registry.channel).Watch(health_pb2.HealthCheckRequest(), timeout=180)
    assert next(watch).status == NOT_SERVING
    for status in (NOT_SERVING, SERVING, SERVING):
        registry.health.tell(status)
    assert next(watch).status == SERVING
    registry.health.close()
    registry.health.tell(SERVING)
    assert next(watch).status == NOT_SERVING
    registry.chain.cancel_streams()
    with pytest.raises(grpc.RpcError) as ended:
        next(watch)
    assert ended.value.code() == grpc.StatusCode.CANCELLED


def test_a_watch_that_begins_when_streams_have_ended_ends_too(registry: Registry) -> None:
    registry.chain.cancel_streams()
    with pytest.raises(grpc.RpcError) as ended:
        list(health_pb2_grpc.HealthStub(registry.channel).Watch(health_pb2.HealthCheckRequest(), timeout=180))
    assert ended.value.code() == grpc.StatusCode.CANCELLED


def test_a_watcher_that_does_not_read_holds_up_nobody_else(registry: Registry) -> None:
    """A client that never opens its flow-control window, which no gRPC library would be."""
    with socket.create_connection(registry.address.split(":")) as stingy:
        stingy.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        headers = {":method": "POST", ":scheme": "http", ":path": "/grpc.health.v1.Health/Watch", ":authority": "x"}
        headers |= {"content-type": "application/grpc", "te": "trailers"}
        stingy.sendall(frame(HEADERS, END_HEADERS, 1, b"".join(map(literal, headers.items()))))
        stingy.sendall(frame(DATA, END_STREAM, 1, bytes(5)))
        for status in (SERVING, NOT_SERVING, SERVING):
            registry.health.tell(status)
            other = health_pb2_grpc.HealthStub(registry.channel).Watch(health_pb2.HealthCheckRequest(), timeout=180)
            assert next(other).status == status
            other.cancel()
        assert registry.user("admin")("ListModels") is not None


DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(header: tuple[str, str]) -> bytes:
    """A header as HPACK has it, without any compression."""
    name, value = (text.encode() for text in header)
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
