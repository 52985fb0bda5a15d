"""Threads for calls, with a bound for those that wait: who would wait for long is better told so at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# How many calls may wait for threads of one kind. Most take less than a millisecond of one.
WAITING = 96


class CallThreads(ThreadPoolExecutor):
    """Threads that know whether too many calls wait for them already."""

    def __init__(self, count: int, name: str, waiting: int = WAITING):
        super().__init__(count, thread_name_prefix=name)
        self._most = count + waiting
        self._taken = 0
        self._counting = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether one more call would have to wait behind too many."""
        return self._taken >= self._most

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Take a call, whether there is room or not."""
        with self._counting:
            self._taken += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._end(None)
            raise
        future.add_done_callback(self._end)
        return future

    def _end(self, _: object) -> None:
        with self._counting:
            self._taken -= 1
