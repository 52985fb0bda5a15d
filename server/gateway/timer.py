"""A time limit for what a connection waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timer:
    """Bounds one wait at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._what: object = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self, what: object, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` in so many seconds, unless the wait ends or another one begins; one for the same goes on."""
        if what != self._what:
            self.stop()
            self._what, self._handle = what, self._loop.call_later(seconds, then)

    def stop(self) -> None:
        """End the wait."""
        self._what = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
