"""Bounds for calls that stream model files: how many at a time, and how long a client may take."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Protocol, TypeVar

import grpc

from server.core.caller import Caller
from server.core.errors import FieldViolation, Overloaded, RequestTimeout
from server.rpc.threads import SHARE
from server.rules.model_files import LONGEST_TRANSFER

MAX_TRANSFERS = 8
FIRST_SECONDS = 10.0
# A part of 1 MiB takes 65 s of a line of 128 kbit/s.
IDLE_SECONDS = 120.0
TRANSFER_SECONDS = LONGEST_TRANSFER.total_seconds()
# How fast a client has to be at least, over more than IDLE_SECONDS of waiting for it.
MIN_BYTES_PER_SECOND = 1024


class Part(Protocol):
    """A part of model files."""

    @property
    def chunk(self) -> bytes:
        """Its bytes."""


T = TypeVar("T", bound=Part)


class Transfers:
    """Counts the transfers that run."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._running: Counter[str] = Counter()

    @contextlib.contextmanager
    def turn(self, caller: Caller) -> Iterator[None]:
        """Take part until the block ends. Raises Overloaded if the caller, or all together, take part often enough."""
        with self._counting:
            if self._running.total() >= MAX_TRANSFERS or self._running[caller.user] >= max(1, MAX_TRANSFERS // SHARE):
                raise Overloaded
            self._running[caller.user] += 1
        try:
            yield
        finally:
            with self._counting:
                self._running[caller.user] -= 1
                if not self._running[caller.user]:
                    del self._running[caller.user]


class Client:
    """Measures how long the client of a stream keeps the server waiting, and not how long the server takes itself.

    It may be silent for some time, and has as much for being slow, which it gets back with the bytes that come.
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._patience = FIRST_SECONDS
        self._credit = IDLE_SECONDS
        self._waiting_since: float | None = None

    def sending(self, parts: Iterator[T]) -> Iterator[T]:
        """Yield the parts that the client sends. Raises RequestTimeout if they come too slowly."""
        while True:
            with self._waiting():
                try:
                    part = next(parts)
                except StopIteration:
                    return
            self._require_speed(part, "comes")
            yield part
            self._patience = IDLE_SECONDS

    def taking(self, parts: Iterator[T]) -> Iterator[T]:
        """Yield the parts that the client gets; the next one is asked for when it has taken one.

        Raises RequestTimeout if it takes them too slowly.
        """
        self._patience = IDLE_SECONDS
        for part in parts:
            with self._waiting():
                yield part
            self._require_speed(part, "is taken")

    def is_too_slow(self) -> bool:
        """Whether the client keeps the server waiting for too long, now or all in all."""
        now, since = time.monotonic(), self._waiting_since
        return now - self._begun > TRANSFER_SECONDS or (since is not None and now - since > self._patience)

    def _require_speed(self, part: Part, what_it_does: str) -> None:
        self._credit = min(IDLE_SECONDS, self._credit + len(part.chunk) / MIN_BYTES_PER_SECOND)
        if self._credit < 0:
            slow = f"{what_it_does} at less than {MIN_BYTES_PER_SECOND} bytes a second"
            raise RequestTimeout(violations=(FieldViolation("chunk", slow),))

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._waiting_since = since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None
            self._credit -= time.monotonic() - since


@contextlib.contextmanager
def watched(context: grpc.ServicerContext) -> Iterator[Client]:
    """Cancel the call of a client that is too slow."""
    client, done = Client(), threading.Event()

    def watch() -> None:
        while not done.wait(min(FIRST_SECONDS, IDLE_SECONDS) / 4):
            if client.is_too_slow():
                context.cancel()
                return

    threading.Thread(target=watch, name="transfer", daemon=True).start()
    try:
        yield client
    finally:
        done.set()
