"""grpc.health.v1: what probes ask.

Unlike the library's servicer, this one has no thread for each watcher, and waits for none: a watcher that does not read
delays only its own stream. And it sends changes alone.
"""

from __future__ import annotations

import threading
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.rpc.admission.arrival import Outbox

# The type stubs lack List.
messages: Any = health_pb2

SERVING: Any = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Any = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Any = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
NAMES = {status: health_pb2.HealthCheckResponse.ServingStatus.Name(status) for status in (SERVING, NOT_SERVING)}

WATCH = "/grpc.health.v1.Health/Watch"

# Asks whether the process answers at all, whatever its database does: a restart would not bring that one back.
LIVENESS = "liveness"


class Health(health_pb2_grpc.HealthServicer):
    """Tells one status for the server and for each of its services: NOT_SERVING until it is told otherwise.

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
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send: Any = None
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
