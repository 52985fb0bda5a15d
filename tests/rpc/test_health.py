"""Readiness follows the database."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.rpc.readiness import Readiness
from server.rpc.server import SERVICES
from server.storage.sql import schema
from server.storage.sql.engine import open_engine
from tests.conftest import OpenRepository
from tests.postgres import PostgresServer
from tests.rpc.harness import Registry, serving

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


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_each_service_tells_its_health_without_credentials(registry: Registry, service: str) -> None:
    readiness = Readiness(registry.health, registry.repository.ping, SERVICES)
    readiness.start()
    try:
        stub = health_pb2_grpc.HealthStub(registry.channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
    finally:
        readiness.stop()
