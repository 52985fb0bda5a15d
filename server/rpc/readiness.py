"""Readiness: the health service says SERVING while the storage answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from grpc_health.v1 import health, health_pb2

from server.errors import Overloaded

INTERVAL_SECONDS = 1.0

log = logging.getLogger(__name__)


class Readiness:
    """Asks the storage again and again, in a thread of its own, and tells the health service."""

    def __init__(self, servicer: health.HealthServicer, ping: Callable[[], None], services: tuple[str, ...]):
        self._servicer = servicer
        self._ping = ping
        self._services = ("", *services)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="readiness", daemon=True)

    def start(self) -> None:
        """Ask once, then go on in the background."""
        self._ask()
        self._thread.start()

    def stop(self) -> None:
        """Say NOT_SERVING from now on."""
        self._stopping.set()
        self._servicer.enter_graceful_shutdown()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            self._ask()

    def _ask(self) -> None:
        try:
            self._ping()
            status: int = health_pb2.HealthCheckResponse.SERVING
        except Overloaded:
            return  # Busy is not away.
        except Exception as error:
            log.warning("the storage does not answer: %s", error.__cause__ or error)
            status = health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            self._servicer.set(service, status)
