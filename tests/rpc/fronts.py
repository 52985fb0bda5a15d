"""Something in front of a server that a client can be put to the test with: it passes calls on, or fails them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from server.rpc.health import SERVING, Health
from server.rpc.server import SERVICES

THREADS = 16
DEADLINE_SECONDS = 180


class Front(grpc.GenericRpcHandler):
    """Passes unary calls on to a server and counts them, on a port and with a health of its own.

    The next calls can be failed instead, before they are passed on or after.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self.health = Health(SERVICES)
        self.health.tell(SERVING)
        self.calls = 0
        self.failed = 0
        # What the last call had left of its deadline.
        self.seconds_left: float | None = None
        self._channel = channel
        self._lock = threading.Lock()
        self._failures: list[tuple[grpc.StatusCode, bool]] = []
        self._failing = ""

    def fail_next(self, code: grpc.StatusCode, times: int = 1, *, carried_out: bool = False, method: str = "") -> None:
        """Answer the next calls, of one method if it is named, with this code.

        If they are carried out, it is as if their answers were lost.
        """
        self._failures = [(code, carried_out)] * times
        self._failing = method

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(self._passed_on(handler_call_details.method))

    def _passed_on(self, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def call(request: bytes, context: grpc.ServicerContext) -> bytes:
            with self._lock:
                self.calls += 1
                self.seconds_left = context.time_remaining()
                fails = self._failures and method.endswith(self._failing)
                code, carried_out = self._failures.pop() if fails else (None, True)
            try:
                answer = self._ask(method, request, context) if carried_out else b""
            except grpc.RpcError as error:
                context.set_trailing_metadata(error.trailing_metadata())
                context.abort(error.code(), error.details())
            if code is not None:
                self.failed += 1
                context.abort(code, "as the test wants it")
            return answer

        return call

    def _ask(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = [pair for pair in context.invocation_metadata() if pair[0] == "authorization"]
        return self._channel.unary_unary(method)(request, metadata=metadata, timeout=DEADLINE_SECONDS)


@contextmanager
def listening(front: Front, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> Iterator[int]:
    """Let a front take calls on a loopback port, with TLS if there are credentials, and yield the port."""
    server = grpc.server(ThreadPoolExecutor(THREADS), handlers=[], options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(front.health, server)
    server.add_generic_rpc_handlers([front])
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield bound
    finally:
        server.stop(0).wait()
