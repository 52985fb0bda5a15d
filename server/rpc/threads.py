"""Bounds for calls at a time: threads that few calls wait for, and streams of which the oldest makes room."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import grpc

P = ParamSpec("P")
T = TypeVar("T")

# How many calls may wait for threads of one kind. Most take less than a millisecond of one.
WAITING = 96


class CallThreads(ThreadPoolExecutor):
    """A thread pool that tells whether too many calls wait for it already."""

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


class OpenStreams:
    """The calls of streams, while they are open; safe to share between threads."""

    def __init__(self, most: int | None = None) -> None:
        """Where there may be no more than so many, the oldest makes room for one more."""
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
            self._contexts.pop(contexts[0], None)
            contexts[0].cancel()

    def cancel_all(self) -> None:
        """End those that are open, and those that begin from now on."""
        self._closing = True
        for context in tuple(self._contexts):
            context.cancel()
