"""Connections end in order now and then, and those that are idle may be looked after."""

from __future__ import annotations

import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.core.config import Limits
from server.rpc.health import NOT_SERVING, SERVING
from tests.conftest import NewDatabase, OpenRepository
from tests.rpc.harness import serving

SECONDS = 180


def test_connections_are_renewed_and_neither_calls_nor_streams_notice(
    new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    repository = open_repository(new_database("sqlite", migrated=True))
    with serving(repository, limits=Limits(max_connection_age=0.5)) as registry:
        ended = threading.Semaphore(0)
        registry.channel.subscribe(lambda state: ended.release() if state != grpc.ChannelConnectivity.READY else None)
        stub = health_pb2_grpc.HealthStub(registry.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert next(watch).status == NOT_SERVING
        admin, renewed = registry.user("admin"), 0
        while renewed < 3:
            admin("ListModels")
            renewed += ended.acquire(blocking=False)
        registry.health.tell(SERVING)
        assert next(watch).status == SERVING
        watch.cancel()


def test_a_client_may_ask_whether_its_connection_is_still_one(
    new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    """The third question that comes too early would end the connection, and the stream with it."""
    options = [("grpc.keepalive_time_ms", 500), ("grpc.http2.max_pings_without_data", 0)]
    with (
        serving(open_repository(new_database("sqlite", migrated=True)), limits=Limits(min_ping=0.2)) as registry,
        grpc.insecure_channel(registry.address, options=options) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=4)
        assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
