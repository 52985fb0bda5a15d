"""The time that is written down. Promotions are listed by it, so it does not go back when the machine's clock does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

# What a clock that goes back waits for. One that was ahead by more, such as by a year, was wrong, and is not followed.
MAX_LEAD_MS = 24 * 3600 * 1000

log = logging.getLogger(__name__)


class SteadyClock:
    """A clock in ms that is never before what was stored: it stands still until the one behind it has caught up.

    Safe to share between threads.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._latest_ms = 0
        self._deciding = threading.Lock()

    def __call__(self) -> int:
        """Return the time: never before what was stored earlier, unless that was more than MAX_LEAD_MS ahead."""
        with self._deciding:
            now_ms = self._clock_ms()
            if self._latest_ms - now_ms > MAX_LEAD_MS:
                log.warning("the clock went back by %d s, and is followed", (self._latest_ms - now_ms) // 1000)
                self._latest_ms = now_ms
            return max(self._latest_ms, now_ms)

    def not_before(self, stored_ms: int) -> None:
        """Let no time be before this one, which is stored. What was given out and then refused does not count."""
        with self._deciding:
            self._latest_ms = max(self._latest_ms, stored_ms)

    def bound_ms(self) -> int:
        """Return the latest time to go on from: what is stored beyond it was written by a clock that was wrong."""
        return self._clock_ms() + MAX_LEAD_MS
