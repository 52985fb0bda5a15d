"""Work of several, who take turns on a few threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor


class Turns:
    """Lets an executor work for several, of whom each has one thing done at a time; safe to share between threads.

    So whoever has much to do waits for itself, and the others for one thing of each at most.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        # What each has to do, of which the first is under way or is about to be.
        self._to_do: dict[str, deque[Callable[[], None]]] = {}

    def add(self, whose: str, work: Callable[[], None]) -> None:
        """Let something be done when it is its turn; it must not raise. Raises RuntimeError once that has ended."""
        with self._lock:
            to_do = self._to_do.setdefault(whose, deque())
            to_do.append(work)
            is_alone = len(to_do) == 1
        if is_alone:
            self._executor.submit(self._take_turn, whose)

    def _take_turn(self, whose: str) -> None:
        with self._lock:
            work = self._to_do[whose][0]
        try:
            work()
        finally:
            with self._lock:
                to_do = self._to_do[whose]
                to_do.popleft()
                if not to_do:
                    del self._to_do[whose]
            if to_do:
                self._executor.submit(self._take_turn, whose)
