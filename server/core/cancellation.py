"""Cancellation: what is done for a call ends with the call, by its deadline or otherwise.

The chain of the RPCs sets the call that a thread works for; code that waits, or makes others wait, asks here whether
that call is over. In commands, there is no call, and nothing ends early.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, copy_context
from typing import TypeVar

T = TypeVar("T")

# How often a wait that nothing can wake looks whether it is still wanted.
LOOK_SECONDS = 0.05


class CallOver(Exception):
    """The call is over, so the work for it was given up. What it has committed before stays."""


class Call:
    """The deadline and the cancellation of a call. One thread works for it, and any other may end it."""

    __slots__ = ("_deadline", "_has_ended", "_interrupt", "_is_refused")

    def __init__(self, seconds: float = math.inf):
        self._deadline = time.monotonic() + seconds
        self._has_ended = False
        self._interrupt: Callable[[], None] | None = None
        self._is_refused: Callable[[], bool] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it was ended, its deadline has passed, or its caller may not go on."""
        if self._has_ended or time.monotonic() >= self._deadline:
            return True
        return self._is_refused is not None and self._is_refused()

    def ends_when(self, is_refused: Callable[[], bool]) -> None:
        """Let it be over, too, as soon as that is true: it is asked again and again, and interrupts nothing."""
        self._is_refused = is_refused

    def end(self) -> None:
        """End it, and interrupt what is done for it, without waiting for that."""
        # In this order, and `interrupt_by` in the other, so that one of the two notices whatever comes between.
        self._has_ended = True
        interrupt = self._interrupt
        if interrupt is not None:
            interrupt()

    def interrupt_by(self, interrupt: Callable[[], None] | None) -> None:
        """Set what interrupts the work from now on, or None. It may be called twice, and must not wait."""
        self._interrupt = interrupt
        if interrupt is not None and self._has_ended:
            interrupt()


_call: ContextVar[Call | None] = ContextVar("call", default=None)


def begin(call: Call) -> None:
    """Let this context work for a call."""
    _call.set(call)


def current_call() -> Call | None:
    """Return the call that this context works for; None if it works for no call."""
    return _call.get()


def require_wanted() -> None:
    """Return unless the current call is over. Raises CallOver."""
    call = _call.get()
    if call is not None and call.is_over:
        raise CallOver


def while_wanted(items: Iterable[T]) -> Iterator[T]:
    """Yield the items, as long as the current call is not over. Raises CallOver."""
    for item in items:
        require_wanted()
        yield item


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return what work returns, of which no more is done after so many seconds. Raises CallOver."""

    def run() -> T:
        begin(Call(seconds))
        return work()

    return copy_context().run(run)


def acquire(lock: threading.Lock | threading.Semaphore, seconds: float) -> bool:
    """Acquire a lock within so many seconds, and return whether it was. Raises CallOver."""
    if lock.acquire(blocking=False):
        return True
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        require_wanted()
        if lock.acquire(timeout=min(left, LOOK_SECONDS)):
            return True
    return False
