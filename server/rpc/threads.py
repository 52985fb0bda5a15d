"""Bounds for concurrent calls: thread pools with a bounded queue, and open streams, of which one ends for a new one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import grpc

P = ParamSpec("P")
T = TypeVar("T")

# How many calls may wait for threads of one kind. Most take less than a millisecond of one.
WAITING = 96


def first_to_end(calls: Iterable[T], connection_of: Callable[[T], str]) -> T:
    """Return which of these calls, in the order in which they came, makes room for a new one.

    That is the oldest on the connection with the most of them, so that no one client can push the others out.
    """
    calls = tuple(calls)
    counts = Counter(map(connection_of, calls))
    return max(calls, key=lambda call: counts[connection_of(call)])


class CallThreads(ThreadPoolExecutor):
    """A thread pool that tells when its queue is full."""

    def __init__(self, count: int, name: str, waiting: int = WAITING):
        super().__init__(count, thread_name_prefix=name)
        self._most = count + waiting
        self._taken = 0
        self._counting = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether as many calls wait as may."""
        return self._taken >= self._most

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call, also to a full queue: callers ask `is_full` before."""
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


class OpenStreams:
    """The calls of streams, while they are open; safe to share between threads."""

    def __init__(self, most: int | None = None) -> None:
        """Beyond `most`, if given, one is cancelled for one more."""
        self._most = most
        self._contexts: dict[grpc.ServicerContext, None] = {}
        self._closing = False

    def __len__(self) -> int:
        """How many are open."""
        return len(self._contexts)

    def add(self, context: grpc.ServicerContext) -> None:
        """Take one that has begun."""
        self._contexts[context] = None
        still_open = context.add_callback(lambda: self._contexts.pop(context, None))
        if not still_open:
            self._contexts.pop(context, None)
        elif self._closing:
            context.cancel()
        elif self._most is not None and len(contexts := tuple(self._contexts)) > self._most:
            ended = first_to_end(contexts, grpc.ServicerContext.peer)
            self._contexts.pop(ended, None)
            ended.cancel()

    def cancel_all(self) -> None:
        """End those that are open, and those that begin from now on."""
        self._closing = True
        for context in tuple(self._contexts):
            context.cancel()
