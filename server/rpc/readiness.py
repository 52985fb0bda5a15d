"""Readiness: the health service says SERVING while the server answers its own calls, and its storage answers these."""

from __future__ import annotations

import threading

import grpc
from grpc_health.v1 import health_pb2

from server.logs import get_logger
from server.rpc.health import NOT_SERVING, Health
from server.rpc.self_check import METHOD, SelfCheck

INTERVAL_SECONDS = 1.0
# How long a call may take that is answered in a millisecond, and how many in a row may fail: a machine can be busy.
CALL_SECONDS = 2.0
MAX_FAILURES = 3

_OPTIONS = (("grpc.enable_http_proxy", 0),)

log = get_logger(__name__)


class Readiness:
    """Calls the server at `target` again and again, from a thread of its own, and tells the health service.

    It says NOT_SERVING at once when the storage does not answer, and after MAX_FAILURES when the server does not.
    """

    def __init__(self, health: Health, self_check: SelfCheck, target: str):
        self._health = health
        self._credentials = self_check.credentials
        self._channel = grpc.insecure_channel(target, _OPTIONS)
        self._call = self._channel.unary_unary(
            METHOD,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        self._failures = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="readiness", daemon=True)

    def start(self) -> None:
        """Call once, then go on in the background. The server takes calls already."""
        self._check()
        self._thread.start()

    def stop(self) -> None:
        """Say NOT_SERVING from now on."""
        self._stopping.set()
        self._health.close()
        self._channel.close()

    def _follow(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            self._check()

    def _check(self) -> None:
        try:
            answer = self._call(
                health_pb2.HealthCheckRequest(),
                timeout=CALL_SECONDS,
                metadata=self._credentials,
                wait_for_ready=True,
            )
        except Exception as error:
            if self._stopping.is_set():
                return
            self._failures += 1
            log.warning("the server does not answer its own call: %s", error)
            if self._failures >= MAX_FAILURES:
                self._health.tell(NOT_SERVING)
            return
        self._failures = 0
        self._health.tell(answer.status)
