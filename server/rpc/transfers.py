"""Bounds for calls that stream model files: how many at a time, and how long a client may take."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc

from server.errors import Overloaded

T = TypeVar("T")

MAX_TRANSFERS = 16
IDLE_SECONDS = 60.0
TRANSFER_SECONDS = 6 * 3600.0


class Transfers:
    """Counts the transfers that run, and ends those whose clients stand still."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(MAX_TRANSFERS)

    @contextlib.contextmanager
    def one(self, context: grpc.ServicerContext) -> Iterator[Callable[[Iterator[T]], Iterator[T]]]:
        """Take part, and yield what has to be put around the parts of the stream. Raises Overloaded."""
        if not self._free.acquire(blocking=False):
            raise Overloaded
        try:
            with _watched(context) as moving:
                yield moving
        finally:
            self._free.release()


@contextlib.contextmanager
def _watched(context: grpc.ServicerContext) -> Iterator[Callable[[Iterator[T]], Iterator[T]]]:
    begun = last = time.monotonic()
    done = threading.Event()

    def moving(parts: Iterator[T]) -> Iterator[T]:
        nonlocal last
        for part in parts:
            last = time.monotonic()
            yield part

    def watch() -> None:
        while not done.wait(IDLE_SECONDS / 4):
            now = time.monotonic()
            if now - last > IDLE_SECONDS or now - begun > TRANSFER_SECONDS:
                context.cancel()
                return

    threading.Thread(target=watch, name="transfer", daemon=True).start()
    try:
        yield moving
    finally:
        done.set()
