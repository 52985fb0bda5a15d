"""Bounds for calls that stream model files: how many at a time, and how long a client may take."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TypeVar

import grpc

from server.core.errors import Overloaded

T = TypeVar("T")

MAX_TRANSFERS = 8
FIRST_SECONDS = 10.0
IDLE_SECONDS = 60.0
TRANSFER_SECONDS = 6 * 3600.0


class Transfers:
    """Counts the transfers that run."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(MAX_TRANSFERS)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Take part until the block ends. Raises Overloaded."""
        if not self._free.acquire(blocking=False):
            raise Overloaded
        try:
            yield
        finally:
            self._free.release()


class Client:
    """Measures how long the client of a stream keeps the server waiting, and not how long the server takes itself."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._patience = FIRST_SECONDS
        self._waiting_since: float | None = None

    def sending(self, parts: Iterator[T]) -> Iterator[T]:
        """Yield the parts that the client sends."""
        while True:
            with self._waiting():
                try:
                    part = next(parts)
                except StopIteration:
                    return
            yield part
            self._patience = IDLE_SECONDS

    def taking(self, parts: Iterator[T]) -> Iterator[T]:
        """Yield the parts that the client gets; the next one is asked for when it has taken one."""
        self._patience = IDLE_SECONDS
        for part in parts:
            with self._waiting():
                yield part

    def is_too_slow(self) -> bool:
        """Whether the client keeps the server waiting for too long, now or all in all."""
        now, since = time.monotonic(), self._waiting_since
        return now - self._begun > TRANSFER_SECONDS or (since is not None and now - since > self._patience)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None


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
