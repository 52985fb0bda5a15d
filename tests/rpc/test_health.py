"""Readiness follows the database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.rpc.readiness import Readiness
from server.rpc.server import SERVICES
from server.storage.sql import schema
from server.storage.sql.engine import open_engine
from tests import builders
from tests.conftest import NewDatabase, OpenRepository
from tests.postgres import PostgresServer
from tests.rpc.harness import THREADS, Registry, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEADLINE_SECONDS = 60


def until(stub: health_pb2_grpc.HealthStub, wanted: int, after: Callable[[], object]) -> None:
    """Watch the overall health, do something, and return when it is as wanted."""
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
            readiness = Readiness(registry.health, repository.ping, SERVICES)
            readiness.start()
            try:
                assert stub.Check(health_pb2.HealthCheckRequest()).status == SERVING
                until(stub, NOT_SERVING, after=postgres.kill)
                failure = registry.user("admin").failure("ListModels")
                assert (failure.code, failure.name) == (grpc.StatusCode.UNAVAILABLE, "StorageUnavailable")
                assert failure.retry_seconds
                until(stub, SERVING, after=postgres.start)
                assert registry.user("admin")("ListModels") is not None
            finally:
                readiness.stop()
            assert stub.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING


def test_a_database_that_hangs_is_not_ready(registry: Registry) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hang() -> None:
        if asked.is_set():
            answer.wait(DEADLINE_SECONDS)
        asked.set()

    readiness = Readiness(registry.health, hang, SERVICES)
    readiness.start()
    try:
        until(health_pb2_grpc.HealthStub(registry.channel), NOT_SERVING, after=lambda: None)
    finally:
        answer.set()
        readiness.stop()


def test_probes_are_answered_while_every_thread_waits_for_a_branch(
    open_repository: OpenRepository, new_database: NewDatabase
) -> None:
    repository = open_repository(new_database("postgresql", migrated=True))
    with serving(repository) as registry, ThreadPoolExecutor(THREADS) as threads:
        admin = registry.user("admin")
        model = admin.create_model("m")
        source = admin.create_version(model)
        with builders.held(repository, source):
            waiting = [threads.submit(admin.promote, source, model) for _ in range(THREADS)]
            stub = health_pb2_grpc.HealthStub(registry.channel)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
            assert not any(promotion.done() for promotion in waiting)
        numbers = sorted(promotion.result().version_number for promotion in waiting)
    assert numbers == list(range(3, 3 + THREADS))


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_each_service_tells_its_health_without_credentials(registry: Registry, service: str) -> None:
    readiness = Readiness(registry.health, registry.repository.ping, SERVICES)
    readiness.start()
    try:
        stub = health_pb2_grpc.HealthStub(registry.channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
    finally:
        readiness.stop()


def test_what_the_health_service_does_not_implement_is_unimplemented(registry: Registry) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        registry.channel.unary_unary("/grpc.health.v1.Health/List")(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
