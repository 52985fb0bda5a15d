"""Refusals that are sent a little later than they could be: a client that asks again at once then waits, too."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable


class DelayedRefusals:
    """Sends refusals so many seconds after they were added, in their order and one by one, on a thread of its own."""

    def __init__(self, seconds: float, pause: float, most: int) -> None:
        """Between two of them is a pause, so that what came at once does not come again at once; `most` may wait."""
        self._seconds = seconds
        self._pause = pause
        self._most = most
        self._waiting: queue.SimpleQueue[tuple[float, Callable[[], None]] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="held-back", daemon=True)
        self._thread.start()

    def add(self, then: Callable[[], None]) -> bool:
        """Let something be done later, which must not raise; False if too much waits for that."""
        if self._waiting.qsize() >= self._most:
            return False
        self._waiting.put((time.monotonic() + self._seconds, then))
        return True

    def close(self) -> None:
        """Do at once what waits, and end."""
        self._closed.set()
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        for due, then in iter(self._waiting.get, None):
            self._closed.wait(max(due - time.monotonic(), self._pause))
            then()
