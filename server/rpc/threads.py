"""Bounds for concurrent calls: threads that callers share fairly, and open streams, of which one ends for a new one."""

from __future__ import annotations

import contextvars
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, ParamSpec, TypeVar

import grpc

from server.core.cancellation import LOOK_SECONDS, CallOver, require_wanted
from server.core.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")

# Of what all callers share, each has one part in so many.
SHARE = 4

# How many calls of each caller may wait for threads of one kind. Most take less than a millisecond of one. What they
# bring is counted elsewhere, unless it is less than 64 KiB.
WAITING = 96

# For how long after a call a caller is there, and has its share kept.
RECENT_SECONDS = 1.0

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


class Callers:
    """Who has called lately; safe to share between threads."""

    def __init__(self) -> None:
        # When each had its last call, the longest ago first.
        self._last: dict[str | None, float] = {}
        self._noting = threading.Lock()

    def note(self, caller: str | None) -> int:
        """Take note of a call, and return how many callers had one in the last RECENT_SECONDS."""
        with self._noting:
            self._last.pop(caller, None)
            self._last[caller] = time.monotonic()
            return self._count()

    def count(self) -> int:
        """Return how many callers had a call in the last RECENT_SECONDS."""
        with self._noting:
            return self._count()

    def _count(self) -> int:
        before = time.monotonic() - RECENT_SECONDS
        while self._last and self._last[first := next(iter(self._last))] < before:
            del self._last[first]
        return len(self._last)


class _Waiting(Future[Any]):
    """A call that waits for its turn: cancelled, it gives its place up."""

    def __init__(self, caller: str | None, call: Callable[[], Any], leave: Callable[[_Waiting], None]):
        super().__init__()
        self.caller = caller
        self.call = call
        self._leave = leave

    def cancel(self) -> bool:
        """Give its place up, and return whether it still had it."""
        is_cancelled = super().cancel()
        if is_cancelled:
            self._leave(self)
        return is_cancelled


class _Line:
    """The calls of one caller: how many have a thread, and those that wait, in the order in which they came."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: dict[_Waiting, None] = {}


class CallThreads(ThreadPoolExecutor):
    """A thread pool in which each caller has a line, and the lines take turns.

    What a thread is asked for is not a certain call, but to serve the call whose turn it is. `None` is the caller of
    strangers, who share a line.
    """

    def __init__(self, count: int, name: str, waiting: int = WAITING, callers: Callers | None = None):
        """Of `count` threads, each of the `callers` has a share at a time; without them, all. So many of each may wait.

        Alone, a caller has all threads but one. Beside others it has a part of that: what runs at once in one process
        takes its turns on one processor, and so the threads of one keep the calls of others from being taken up.
        """
        super().__init__(count, thread_name_prefix=name)
        self._count = count
        self._callers = callers
        self._share = count
        self._most_waiting = waiting
        self._most_in_all = SHARE * waiting
        self._lock = threading.Lock()
        self._lines: dict[str | None, _Line] = {}
        # The callers with a call that could be served now, the next in turn first.
        self._turns: dict[str | None, None] = {}
        self._waiting = 0
        self._serving = 0

    def __len__(self) -> int:
        """How many calls have a thread, or wait for one."""
        with self._lock:
            return self._waiting + sum(line.running for line in self._lines.values())

    @property
    def is_full(self) -> bool:
        """Whether as many calls of strangers wait as may."""
        line = self._lines.get(None)
        return line is not None and len(line.waiting) >= self._most_waiting

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call of a stranger, also to a full line: ask `is_full` before."""
        waiting = _Waiting(None, functools.partial(fn, *args, **kwargs), self._leave)
        with self._lock:
            is_thread_needed = self._add(waiting)
        return self._begin(waiting) if is_thread_needed else waiting

    def submit_for(self, caller: str | None, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call of a caller. Raises Overloaded if as many of its calls wait as may.

        Where as many of all callers' wait as may, it is the longest line that gives a place up: its newest call is
        cancelled, or this one refused. A call that is cancelled before its turn is never begun.
        """
        waiting = _Waiting(caller, functools.partial(fn, *args, **kwargs), self._leave)
        share = self._share_beside(self._callers.note(caller)) if self._callers else self._count
        with self._lock:
            self._share = share
            displaced = self._make_room(caller)
            is_thread_needed = self._add(waiting)
        if displaced is not None:
            displaced.cancel()
        return self._begin(waiting) if is_thread_needed else waiting

    def _share_beside(self, callers: int) -> int:
        """Return how many threads a caller may have at a time where there are so many callers."""
        return max(1, (self._count - 1) // max(1, callers))

    def _begin(self, waiting: _Waiting) -> _Waiting:
        """Ask for a thread. Raises RuntimeError if there is none, without the call."""
        if not self._ask_for_thread():
            waiting.cancel()
            raise RuntimeError("no thread can be had any more")
        return waiting

    def _ask_for_thread(self) -> bool:
        """Let one more thread serve; False if the pool has ended, or the system has no more threads."""
        try:
            super().submit(self._serve)
        except RuntimeError:
            with self._lock:
                self._serving -= 1
            return False
        return True

    def _serve(self) -> None:
        """Serve calls, as long as there are some whose turn it is."""
        waiting = self._next(None)
        while waiting is not None:
            if waiting.set_running_or_notify_cancel():
                try:
                    result = waiting.call()
                except BaseException as raised:
                    waiting.set_exception(raised)
                else:
                    waiting.set_result(result)
            waiting = self._next(waiting)

    def _next(self, served: _Waiting | None) -> _Waiting | None:
        """Give back the turn of a call that was served, and take that of the next; None if there is none."""
        # Only those that wait can have a larger share than when they came.
        share = self._share_beside(self._callers.count()) if self._callers and self._waiting else self._share
        with self._lock:
            self._share = share
            if served is not None:
                line = self._lines[served.caller]
                line.running -= 1
                self._update(served.caller, line)
            if not self._turns:
                self._serving -= 1
                return None
            caller = next(iter(self._turns))
            line = self._lines[caller]
            line.running += 1
            del self._turns[caller]  # The others come first.
            waiting = next(iter(line.waiting))
            self._remove(line, waiting)
            is_thread_needed = bool(self._turns) and self._serving < self._count
            self._serving += is_thread_needed
        if is_thread_needed:
            self._ask_for_thread()
        return waiting

    def _make_room(self, caller: str | None) -> _Waiting | None:
        """Return the call that has to leave for one more of this caller, if one has to. Raises Overloaded."""
        line = self._lines.get(caller)
        length = 0 if line is None else len(line.waiting)
        if length >= self._most_waiting:
            raise Overloaded
        if self._waiting < self._most_in_all:
            return None
        longest = max(self._lines.values(), key=lambda each: len(each.waiting))
        if length >= len(longest.waiting):
            raise Overloaded
        newest = next(reversed(longest.waiting))
        self._remove(longest, newest)
        return newest

    def _add(self, waiting: _Waiting) -> bool:
        """Let a call wait, and return whether a thread has to be asked for: those at work take their turns anyway."""
        line = self._lines.setdefault(waiting.caller, _Line())
        line.waiting[waiting] = None
        self._waiting += 1
        self._update(waiting.caller, line)
        is_thread_needed = waiting.caller in self._turns and self._serving < self._count
        self._serving += is_thread_needed
        return is_thread_needed

    def _leave(self, waiting: _Waiting) -> None:
        """Give up the place of a call that was cancelled before its turn."""
        with self._lock:
            line = self._lines.get(waiting.caller)
            if line is not None and waiting in line.waiting:
                self._remove(line, waiting)

    def _remove(self, line: _Line, waiting: _Waiting) -> None:
        del line.waiting[waiting]
        self._waiting -= 1
        self._update(waiting.caller, line)

    def _update(self, caller: str | None, line: _Line) -> None:
        """Take note of whether a caller has a call that could be served now, and whether it has any at all."""
        if line.waiting and line.running < self._share:
            self._turns.setdefault(caller)
            return
        self._turns.pop(caller, None)
        if not (line.waiting or line.running):
            del self._lines[caller]


def run_on(threads: CallThreads, caller: str, work: Callable[[], T]) -> T:
    """Let other threads do work for the current call, which is that of a caller, and return what it returns.

    Raises what the work raises, which notices itself when the call is over; CallOver if the call is over before a
    thread is free, and Overloaded if too many wait for one.
    """
    doing = threads.submit_for(caller, contextvars.copy_context().run, work)
    try:
        # One that gave way to another caller's is done, and does not wake who waits for it.
        while not doing.done():
            wait([doing], LOOK_SECONDS)
            if not doing.running():
                require_wanted()
        return doing.result()
    except CallOver:
        doing.cancel()
        raise
    except CancelledError:
        raise Overloaded from None
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
