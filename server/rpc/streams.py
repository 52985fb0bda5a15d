"""Open streams, and calls whose message is on its way: where there are as many as may be, one ends for a new one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import grpc

T = TypeVar("T")

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
