"""The health of the server: what grpc.health.v1 tells probes, and the call to itself by which the server finds out.

Unlike grpcio's servicer, `Health` has no thread for each watcher, and waits for none: a watcher that does not read
delays only its own stream. grpcio's can deadlock while it sends (github.com/grpc/grpc/pull/43403).
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.core.errors import Overloaded, RegistryError
from server.core.permissions import SELF_CHECK
from server.rpc.admission.arrival import Outbox

WATCH = "/grpc.health.v1.Health/Watch"
# Asks whether the process answers at all, whatever its database does: a restart would not bring that one back.
LIVENESS = "liveness"

# The call of the server to itself, and the metadata that shows that it is one.
METHOD = f"/{SELF_CHECK}/Check"
_KEY = "x-self-check"
INTERVAL_SECONDS = 1.0
# How long a call may take that is answered in a millisecond, and how many in a row may fail: a machine can be busy.
CALL_SECONDS = 2.0
MAX_FAILURES = 3
_OPTIONS = (("grpc.enable_http_proxy", 0),)

# The type stubs lack List.
messages: Any = health_pb2
SERVING: Any = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Any = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Any = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
NAMES = {status: health_pb2.HealthCheckResponse.ServingStatus.Name(status) for status in (SERVING, NOT_SERVING)}

log = logging.getLogger(__name__)


class Health(health_pb2_grpc.HealthServicer):
    """The servicer: one status for the server and each of its services, NOT_SERVING until `tell` changes it.

    LIVENESS is always SERVING.
    """

    def __init__(self, services: tuple[str, ...]):
        self._services = ("", *services, LIVENESS)
        self._status = NOT_SERVING
        self._closed = False
        # By their contexts: which service they ask for, and what is sent to them.
        self._watchers: dict[grpc.ServicerContext, tuple[str, Outbox]] = {}
        # For the status and the watchers together. Reentrant, since close() calls tell().
        self._lock = threading.RLock()

    def tell(self, status: Any) -> None:
        """Answer with this status from now on."""
        with self._lock:
            if self._closed or status == self._status:
                return
            self._status = status
            for service, outbox in self._watchers.values():
                if service in self._services and service != LIVENESS:
                    outbox.send(self._answer(service).SerializeToString())

    def close(self) -> None:
        """Answer NOT_SERVING from now on, whatever is told later."""
        with self._lock:
            self.tell(NOT_SERVING)
            self._closed = True

    def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Return the status of the server or of a service."""
        if request.service not in self._services:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("the server has no such service")
        return self._answer(request.service)

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Return the status of each service."""
        return messages.HealthListResponse(statuses={service: self._answer(service) for service in self._services})

    def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, stream: object = None
    ) -> None:
        """Send the status, and then each change of it until the client goes away; returns at once."""
        outbox = Outbox(context)
        with self._lock:
            self._watchers[context] = request.service, outbox
            outbox.send(self._answer(request.service).SerializeToString())
        if not context.add_callback(lambda: self._forget(context)):
            self._forget(context)

    # grpcio then leaves the stream open when the function returns. Its own `send` would wait for the client.
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def status_of(self, service: str) -> Any:
        """Return the status of a service."""
        if service == LIVENESS:
            return SERVING
        return self._status if service in self._services else SERVICE_UNKNOWN

    def _answer(self, service: str) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=self.status_of(service))

    def _forget(self, watcher: grpc.ServicerContext) -> None:
        with self._lock:
            self._watchers.pop(watcher, None)


class SelfCheck:
    """Answers SERVING while the storage answers."""

    def __init__(self) -> None:
        self._secret = secrets.token_hex(16)

    @property
    def credentials(self) -> tuple[tuple[str, str], ...]:
        """The metadata that admits a call."""
        return ((_KEY, self._secret),)

    def may_call(self, details: grpc.HandlerCallDetails) -> bool:
        """Whether the metadata of a call has the secret."""
        shown = [str(value) for key, value in details.invocation_metadata if key == _KEY]
        return len(shown) == 1 and secrets.compare_digest(shown[0].encode(), self._secret.encode())

    def add_to(self, server: grpc.Server, ping: Callable[[], None]) -> None:
        """Let the server serve it; `ping` returns if the storage answers, and raises RegistryError if it does not."""

        def check(_: object, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
            try:
                ping()
            except Overloaded:
                pass  # Busy is not away.
            except RegistryError as error:
                log.warning("the storage does not answer: %s", error.__cause__ or error)
                return health_pb2.HealthCheckResponse(status=NOT_SERVING)
            return health_pb2.HealthCheckResponse(status=SERVING)

        handler = grpc.unary_unary_rpc_method_handler(
            check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SELF_CHECK, {"Check": handler}),))


class Readiness:
    """Calls the server at `target` every second, in a thread of its own, and tells `Health` what came of it.

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
