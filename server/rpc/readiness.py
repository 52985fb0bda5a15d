"""Readiness: the health service says SERVING while the storage answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from server.errors import Overloaded
from server.rpc.health import NOT_SERVING, SERVING, Health

INTERVAL_SECONDS = 1.0
# A database that does not answer for this long is not there.
PATIENCE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Readiness:
    """Asks the storage again and again, in threads of its own, and tells the health service."""

    def __init__(self, health: Health, ping: Callable[[], None]):
        self._health = health
        self._ping = ping
        self._stopping = threading.Event()
        self._answered_at = time.monotonic()
        self._threads = [
            threading.Thread(target=target, name="readiness", daemon=True) for target in (self._follow, self._watch)
        ]

    def start(self) -> None:
        """Ask once, then go on in the background."""
        self._ask()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Say NOT_SERVING from now on."""
        self._stopping.set()
        self._health.close()

    def _follow(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            self._ask()

    def _watch(self) -> None:
        """See to a question that stays without an answer; who asked it cannot."""
        while not self._stopping.wait(INTERVAL_SECONDS):
            if time.monotonic() - self._answered_at > INTERVAL_SECONDS + PATIENCE_SECONDS:
                self._health.tell(NOT_SERVING)

    def _ask(self) -> None:
        try:
            self._ping()
            status = SERVING
        except Overloaded:
            status = SERVING  # Busy is not away.
        except Exception as error:
            log.warning("the storage does not answer: %s", error.__cause__ or error)
            status = NOT_SERVING
        self._answered_at = time.monotonic()
        self._health.tell(status)
