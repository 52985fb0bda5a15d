"""The gateway on a loopback port, before handlers that answer as a test likes and remember what they were asked."""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelregistry.v1.model_pb2 import Model
from server.auth import local_keys
from server.auth.credentials import Credentials
from server.auth.tokens import TokenVerifier
from server.core.errors import RegistryError
from server.core.permissions import SCOPES
from server.gateway import server as gateway_server
from server.gateway.connection import Connection
from server.gateway.limits import HttpLimits
from server.gateway.proxies import Network, TrustedProxies
from server.gateway.routes import routes_of
from server.gateway.server import HttpServer
from server.rpc.health import SERVING, Health
from server.rpc.in_process import InProcessServer
from server.rpc.server import SERVICES
from server.rpc.status import abort

DEADLINE_SECONDS = 60
MAX_MESSAGE_BYTES = 2**20
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
    """Answers every call alike, with a model, an error, or a failure that says nothing more, as soon as it may.

    Only to probes it says at once that it serves. It tells which calls are asked, and which are over, answered or not.
    """

    answer: Model = field(default_factory=lambda: MODEL)
    failure: grpc.StatusCode | None = None
    refusal: RegistryError | None = None
    asked: queue.SimpleQueue[Asked] = field(default_factory=queue.SimpleQueue)
    over: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    may_answer: threading.Event = field(default_factory=threading.Event)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))
    # What is streamed, and how much of it was.
    stream: Iterable[bytes] = ()
    sent: int = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:

        def answer(request: bytes, context: grpc.ServicerContext) -> Model:
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            context.add_callback(lambda: self.over.put(details.method))
            self.asked.put(Asked(details.method, metadata, context.time_remaining()))
            assert self.may_answer.wait(DEADLINE_SECONDS)
            if self.refusal is not None:
                abort(context, self.refusal, metadata["x-request-id"])
            if self.failure is not None:
                context.abort(self.failure, "")
            return self.answer

        def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            context.add_callback(lambda: self.over.put(details.method))
            self.asked.put(Asked(details.method, {}, context.time_remaining()))
            for message in self.stream:
                self.sent += 1
                yield message

        if details.method.endswith("/WatchEvents"):
            return grpc.unary_stream_rpc_method_handler(stream)
        answer.experimental_thread_pool = self.threads  # type: ignore[attr-defined]
        return grpc.unary_unary_rpc_method_handler(answer)


class Straight(grpc.ServerInterceptor):
    """Lets each call through."""

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return continuation(handler_call_details)


@dataclass(frozen=True)
class Gateway:
    """Where the gateway listens, the server behind it, and the clients whose connections have ended."""

    address: Address
    backend: Backend
    ended: queue.SimpleQueue[Address]
    health: Health
    keys: local_keys.LocalKeys
    verifier: TokenVerifier

    def token(self, subject: str = "jane", *, is_known: bool = True) -> str:
        """A token of a user, which the gateway knows already or has to ask the server about."""
        token = self.keys.mint(subject, SCOPES)
        if is_known:
            self.verifier.verify(f"Bearer {token}")
        return token

    def bearer(self, subject: str = "jane", *, is_known: bool = True) -> bytes:
        """The same as a header."""
        return f"Authorization: Bearer {self.token(subject, is_known=is_known)}\r\n".encode()

    def wait_for_the_end_of(self, client: Address) -> None:
        """Return when the connection of this client is no more."""
        while self.ended.get(timeout=DEADLINE_SECONDS) != client:
            pass

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """Connect, from one of the addresses of this machine itself."""
        return socket.create_connection(self.address, timeout=DEADLINE_SECONDS, source_address=(source, 0))


@contextmanager
def gateway(
    monkeypatch: pytest.MonkeyPatch,
    tls: ssl.SSLContext | None = None,
    trusted_proxies: Sequence[Network] = (),
    **limits: float,
) -> Iterator[Gateway]:
    """Run a gateway and what is behind it, with limits that are not the usual ones."""
    ended: queue.SimpleQueue[Address] = queue.SimpleQueue()

    class ObservedConnection(Connection):
        """Tells of its end, which a client that does not read cannot see."""

        def connection_made(self, transport: asyncio.Transport) -> None:
            self.peer = transport.get_extra_info("peername")
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.put(self.peer)

    monkeypatch.setattr(gateway_server, "Connection", ObservedConnection)
    backend = Backend()
    backend.may_answer.set()
    calls = InProcessServer(Straight(), MAX_MESSAGE_BYTES)
    calls.add_generic_rpc_handlers([backend])
    # For streams.
    server = grpc.server(ThreadPoolExecutor(4), handlers=[backend])
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    health = Health(SERVICES)
    health.tell(SERVING)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    with tempfile.TemporaryDirectory() as folder:
        keys = local_keys.LocalKeys.open(Path(folder))
        verifier = TokenVerifier(keys.key_set(), local_keys.ISSUER, local_keys.AUDIENCE)
        http = HttpServer(
            listener,
            routes_of(SERVICES),
            calls,
            target,
            health,
            Credentials(verifier),
            limits=dataclasses.replace(HttpLimits(max_body_bytes=MAX_MESSAGE_BYTES), **limits),
            proxies=TrustedProxies(trusted_proxies),
            tls=tls,
        )
        http.start()
        try:
            yield Gateway(address, backend, ended, health, keys, verifier)
        finally:
            http.stop(1)
            server.stop(0).wait()
            backend.may_answer.set()
            backend.threads.shutdown()
