"""grpc.health.v1: what probes ask.

Unlike the library's servicer, this one holds no lock while it sends: a watcher that does not read keeps one thread, and
neither the other probes nor the end of the server. And it sends changes alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

# The type stubs lack List.
messages: Any = health_pb2

SERVING: Any = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Any = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Any = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
NAMES = {status: health_pb2.HealthCheckResponse.ServingStatus.Name(status) for status in (SERVING, NOT_SERVING)}

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
        self._changed = threading.Condition()

    def tell(self, status: Any) -> None:
        """Answer with this status from now on."""
        with self._changed:
            if not self._closed and status != self._status:
                self._status = status
                self._changed.notify_all()

    def close(self) -> None:
        """Answer NOT_SERVING from now on, whatever is told later."""
        with self._changed:
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
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        """Return the status and then each change of it, until the client goes away."""
        context.add_callback(self._wake)
        told = None
        while True:
            with self._changed:
                while context.is_active() and self._answer(request.service) == told:
                    self._changed.wait()
                told = self._answer(request.service)
            if not context.is_active():
                return
            yield told

    def status_of(self, service: str) -> Any:
        """Return the status of a service."""
        if service == LIVENESS:
            return SERVING
        return self._status if service in self._services else SERVICE_UNKNOWN

    def _answer(self, service: str) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=self.status_of(service))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
