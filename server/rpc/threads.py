"""Threads that callers share fairly: each caller has a line of calls, and the lines take turns."""

from __future__ import annotations

import contextvars
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from server.core.cancellation import LOOK_SECONDS, CallOver, require_wanted
from server.core.errors import Overloaded

T = TypeVar("T")

# Of what all callers share, each has one part in so many.
SHARE = 4

# How many calls of each caller may wait for threads of one kind. Most take less than a millisecond of one. What they
# bring is counted elsewhere, unless it is less than 64 KiB.
WAITING = 96

# A greedy caller is served so slowly that the time is so many times what this process works meanwhile; no single rest
# takes longer. `python -m bench.greed`: with that, the p99 of others beside it is 1.3 to 1.9 times that without it, and
# without any rest up to 20 times.
PACE = 1.25
LONGEST_REST_SECONDS = 0.05

# For how long after a call a caller is there, and has its share kept.
RECENT_SECONDS = 1.0

log = logging.getLogger(__name__)


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


class Submitted:
    """A call that waits for its turn, or has had it: then it holds nothing of the call any more."""

    __slots__ = ("_give_way", "_serve", "caller")

    def __init__(self, caller: str | None, serve: Callable[[], object], give_way: Callable[[], object] | None):
        self.caller = caller
        self._serve: Callable[[], object] | None = serve
        self._give_way = give_way

    def serve(self) -> None:
        """Serve the call."""
        try:
            self._taken()()
        except BaseException:
            log.exception("a call was lost in its thread")

    def give_way(self) -> None:
        """Tell the call that it gives its place up to another one."""
        give_way = self._give_way
        self.forget()
        if give_way is not None:
            give_way()

    def forget(self) -> None:
        """Let go of the call, which has given its place up."""
        self._serve = self._give_way = None

    def _taken(self) -> Callable[[], object]:
        """Return what serves the call, and let go of it: what is raised holds the frames that know it."""
        serve = self._serve
        assert serve is not None
        self.forget()
        return serve


class _Line:
    """The calls of one caller: how many have a thread, and those that wait, in the order in which they came."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: dict[Submitted, None] = {}


class _Pace:
    """How fast a thread serves a greedy caller: others find the processor idle, whatever it is that a call costs."""

    __slots__ = ("_cpu", "_wall")

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def rest(self) -> None:
        """Rest until the time since the last rest is PACE times what all threads of the process have worked in it.

        What they work during a rest counts towards the next one.
        """
        cpu = time.process_time()
        passed = time.perf_counter() - self._wall
        time.sleep(min(max(0.0, PACE * (cpu - self._cpu) - passed), LONGEST_REST_SECONDS))
        self._wall, self._cpu = time.perf_counter(), cpu


class CallThreads:
    """Threads for calls, in which each caller has a line, and the lines take turns.

    What a thread is asked for is not a certain call, but to serve the call whose turn it is: as long as a call could be
    served and not all threads serve, one more has been asked. `None` is the caller of strangers, who share a line.
    """

    def __init__(self, count: int, name: str, waiting: int = WAITING, callers: Callers | None = None):
        """Of `count` threads, each of the `callers` has a share at a time; without them, all. So many of each may wait.

        Alone, a caller has all threads but one. Beside others it has a part of that, and rests between its calls if
        more than half of what waits is its own: what runs at once in one process takes its turns on one processor, and
        so the threads of one keep the calls of others from being taken up.
        """
        self._count = count
        self._name = name
        self._callers = callers
        self._share = count
        self._most_waiting = waiting
        self._most_in_all = SHARE * waiting
        self._lock = threading.Lock()
        self._lines: dict[str | None, _Line] = {}
        # The callers with a call that could be served now, the next in turn first.
        self._turns: dict[str | None, None] = {}
        self._waiting = 0
        # How many threads serve, or were asked to; one does when it starts. The others wait to be asked, or to be told
        # that this is the end.
        self._serving = 1
        self._threads: list[threading.Thread] = []
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        # Whether the end has begun.
        self.is_closed = False
        # With one thread, all calls are served, also where the system gives no others. Raises RuntimeError.
        self._start_thread()

    def __len__(self) -> int:
        """How many calls have a thread, or wait for one."""
        with self._lock:
            return self._waiting + sum(line.running for line in self._lines.values())

    @property
    def is_full(self) -> bool:
        """Whether as many calls of strangers wait as may."""
        line = self._lines.get(None)
        return line is not None and len(line.waiting) >= self._most_waiting

    def close(self) -> None:
        """Take no more calls, and return when those that are there have been served."""
        with self._lock:
            self.is_closed = True
            threads = tuple(self._threads)
        for _ in threads:
            self._asked.put(False)
        for thread in threads:
            thread.join()

    def submit(self, call: Callable[[], object]) -> None:
        """Submit a call of a stranger, also to a full line: ask `is_full` before."""
        with self._lock:
            self._require_open()
            self._add(Submitted(None, call, None))

    def submit_for(
        self, caller: str | None, call: Callable[[], object], give_way: Callable[[], object] | None = None
    ) -> Submitted:
        """Submit a call of a caller. Raises Overloaded if as many of its calls wait as may.

        Where as many of all callers' wait as may, it is the longest line that gives a place up: this call is refused,
        or that line's newest one is told to `give_way`, and never begun.
        """
        submitted = Submitted(caller, call, give_way)
        with self._lock:
            self._require_open()
            if self._callers:
                self._share = self._share_beside(self._callers.note(caller))
            displaced = self._make_room(caller)
            self._add(submitted)
        if displaced is not None:
            displaced.give_way()
        return submitted

    def withdraw(self, submitted: Submitted) -> bool:
        """Give up the place of a call, and return whether it still had it."""
        with self._lock:
            line = self._lines.get(submitted.caller)
            if line is None or submitted not in line.waiting:
                return False
            self._remove(line, submitted)
        submitted.forget()
        return True

    def _require_open(self) -> None:
        if self.is_closed:
            raise RuntimeError("these threads take no more calls")

    def _share_beside(self, callers: int) -> int:
        """Return how many threads a caller may have at a time where there are so many callers."""
        parts = max(SHARE, callers) if callers > 1 else 1
        return max(1, (self._count - 1) // parts)

    def _work(self) -> None:
        """Serve calls, as long as there are some whose turn it is, and again when this thread is asked to."""
        is_asked = True
        while is_asked:
            submitted = self._next(None)
            pace = _Pace()
            while submitted is not None:
                submitted.serve()
                if self._is_greedy(submitted.caller):
                    pace.rest()
                submitted = self._next(submitted)
            is_asked = self._asked.get()

    def _is_greedy(self, caller: str | None) -> bool:
        """Whether this caller, which has a call at work, is not alone, and more than half of what waits is its own."""
        if self._callers is None or 2 * len(self._lines[caller].waiting) <= self._waiting:
            return False
        return self._callers.count() > 1

    def _next(self, served: Submitted | None) -> Submitted | None:
        """Give back the turn of a call that was served, and take that of the next; None if there is none."""
        with self._lock:
            # Only those that wait can have a larger share than when they came.
            if self._callers and self._waiting:
                self._share = self._share_beside(self._callers.count())
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
            submitted = next(iter(line.waiting))
            self._remove(line, submitted)
            if self._turns:
                self._ask_for_thread()
        return submitted

    def _ask_for_thread(self) -> None:
        """Let one more thread serve, if there is one that does not. At the end, those at work take the turns."""
        if self.is_closed or self._serving == self._count:
            return
        if self._serving < len(self._threads):
            self._asked.put(True)
        else:
            try:
                self._start_thread()
            except RuntimeError:
                return  # The system has no more: those at work take the turns.
        self._serving += 1

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _make_room(self, caller: str | None) -> Submitted | None:
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

    def _add(self, submitted: Submitted) -> None:
        """Let a call wait, for a thread that is asked for here: those at work take their turns anyway."""
        line = self._lines.get(submitted.caller)
        if line is None:
            line = self._lines[submitted.caller] = _Line()
        line.waiting[submitted] = None
        self._waiting += 1
        self._update(submitted.caller, line)
        if submitted.caller in self._turns:
            self._ask_for_thread()

    def _remove(self, line: _Line, submitted: Submitted) -> None:
        del line.waiting[submitted]
        self._waiting -= 1
        self._update(submitted.caller, line)

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
    doing: Future[T] = Future()
    do = functools.partial(_do, doing, contextvars.copy_context(), work)
    submitted = threads.submit_for(caller, do, functools.partial(doing.set_exception, Overloaded()))
    try:
        while not wait([doing], LOOK_SECONDS).done:
            if not doing.running():
                require_wanted()
        return doing.result()
    except CallOver:
        threads.withdraw(submitted)
        raise
    finally:
        # They hold what was raised, which holds this frame.
        del doing, do, submitted


def _do(doing: Future[T], context: contextvars.Context, work: Callable[[], T]) -> None:
    doing.set_running_or_notify_cancel()
    try:
        doing.set_result(context.run(work))
    except BaseException as raised:
        doing.set_exception(raised)
    finally:
        # It holds what was raised, which holds this frame, and all that the work knows.
        del doing, context, work
