"""Bounds for concurrent calls: thread pools with a bounded queue, and open streams, of which one ends for a new one."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, ParamSpec, TypeVar

import grpc

from server.core.cancellation import LOOK_SECONDS, CallOver, require_wanted
from server.core.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")

# How many calls may wait for threads of one kind. Most take less than a millisecond of one.
WAITING = 96


# For how long a call is young: by then, one that means well has sent its message, or has its answer.
YOUNG_SECONDS = 3.0


class Place(NamedTuple):
    """The place that a call holds: the address and port of its client, and since when, by the monotonic clock."""

    connection: str
    since: float

    @classmethod
    def taken_by(cls, connection: str) -> Place:
        """Return a place that is taken now."""
        return cls(connection, time.monotonic())


def first_to_end(places: Mapping[T, Place]) -> T:
    """Return which of these calls, in the order in which they came, ends for another one.

    That is the oldest, unless all are young: then it is the oldest on the connection with the most of them, so that one
    client that comes again and again ends its own.
    """
    oldest, place = next(iter(places.items()))
    if time.monotonic() - place.since > YOUNG_SECONDS:
        return oldest
    counts = Counter(place.connection for place in places.values())
    return max(places, key=lambda call: counts[places[call].connection])


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


def run_on(threads: CallThreads, work: Callable[[], T]) -> T:
    """Let other threads do work for the current call, and return what it returns.

    Raises what the work raises, which notices itself when the call is over; CallOver if the call is over before a
    thread is free, and Overloaded if too many wait for one.
    """
    if threads.is_full:
        raise Overloaded
    doing = threads.submit(contextvars.copy_context().run, work)
    try:
        while not wait([doing], LOOK_SECONDS).done:
            if not doing.running():
                require_wanted()
        return doing.result()
    except CallOver:
        doing.cancel()
        raise
    finally:
        # It holds what was raised, which holds this frame.
        del doing


class OpenStreams:
    """The calls of streams, while they are open; safe to share between threads."""

    def __init__(self, most: int | None = None) -> None:
        """Beyond `most`, if given, one is cancelled for one more."""
        self._most = most
        self._places: dict[grpc.ServicerContext, Place] = {}
        self._taking = threading.Lock()
        self._closing = False

    def __len__(self) -> int:
        """How many are open."""
        return len(self._places)

    def add(self, context: grpc.ServicerContext) -> None:
        """Take one that has begun."""
        place = Place.taken_by(context.peer())
        ended = None
        with self._taking:
            self._places[context] = place
            if self._most is not None and len(self._places) > self._most:
                ended = first_to_end(self._places)
                del self._places[ended]
        if not context.add_callback(lambda: self._remove(context)):
            self._remove(context)
        if self._closing:
            context.cancel()
        if ended is not None:
            ended.cancel()

    def cancel_all(self) -> None:
        """End those that are open, and those that begin from now on."""
        self._closing = True
        with self._taking:
            contexts = tuple(self._places)
        for context in contexts:
            context.cancel()

    def _remove(self, context: grpc.ServicerContext) -> None:
        with self._taking:
            self._places.pop(context, None)
