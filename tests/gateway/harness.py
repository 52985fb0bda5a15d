"""The gateway on a loopback port, before a gRPC server that answers as a test likes and remembers what it was asked."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from modelregistry.v1.model_pb2 import Model
from server.config import DEFAULT_HTTP_IDLE_TIMEOUT_SECONDS
from server.gateway import server as gateway_server
from server.gateway.protocol import BoundedProtocol
from server.gateway.routes import routes_of
from server.gateway.server import HttpServer
from server.rpc.health import SERVING, Health
from server.rpc.server import SERVICES

DEADLINE_SECONDS = 60
MODEL = Model(rid="ri.models.main.model.some", name="some")

Address = tuple[str, int]


@dataclass(frozen=True)
class Asked:
    """What a call brought along."""

    rpc: str
    metadata: dict[str, str]
    seconds_left: float


@dataclass
class Backend(grpc.GenericRpcHandler):
    """Answers every call alike, with a model or with a failure that says nothing more, as soon as it may.

    Only to probes it says at once that it serves. It tells which calls are asked, and which are over, answered or not.
    """

    answer: Model = field(default_factory=lambda: MODEL)
    failure: grpc.StatusCode | None = None
    asked: queue.SimpleQueue[Asked] = field(default_factory=queue.SimpleQueue)
    over: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            context.add_callback(lambda: self.over.put(details.method))
            self.asked.put(Asked(details.method, metadata, context.time_remaining()))
            assert self.may_answer.wait(DEADLINE_SECONDS)
            if self.failure is not None:
                context.abort(self.failure, "")
            return self.answer.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@dataclass(frozen=True)
class Gateway:
    """Where the gateway listens, the server behind it, and the clients whose connections have ended."""

    address: Address
    backend: Backend
    ended: queue.SimpleQueue[Address]
    health: Health

    def wait_for_the_end_of(self, client: Address) -> None:
        """Return when the connection of this client is no more."""
        while self.ended.get(timeout=DEADLINE_SECONDS) != client:
            pass

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=DEADLINE_SECONDS)


@contextmanager
def gateway(
    monkeypatch: pytest.MonkeyPatch,
    tls: ssl.SSLContext | None = None,
    idle_timeout_seconds: float = DEFAULT_HTTP_IDLE_TIMEOUT_SECONDS,
) -> Iterator[Gateway]:
    """Run a gateway and the server behind it."""
    ended: queue.SimpleQueue[Address] = queue.SimpleQueue()

    class ObservedProtocol(BoundedProtocol):
        """Tells of its end, which nobody can see from outside who does not read."""

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            assert self.client
            ended.put(self.client)

    monkeypatch.setattr(gateway_server, "BoundedProtocol", ObservedProtocol)
    backend = Backend()
    backend.may_answer.set()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[backend])
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    health = Health(SERVICES)
    health.tell(SERVING)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    http = HttpServer(
        listener,
        routes_of(SERVICES),
        target,
        health,
        max_body_bytes=2**20,
        idle_timeout_seconds=idle_timeout_seconds,
        tls=tls,
    )
    http.start()
    try:
        yield Gateway(address, backend, ended, health)
    finally:
        http.stop(1)
        server.stop(0).wait()
