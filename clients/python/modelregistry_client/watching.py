"""Events as they happen, across restarts of servers: a stream that broke goes on behind the last message that came."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.event_service_pb2 import WatchEventsRequest, WatchEventsResponse
from modelregistry_client.error_base import RegistryError

# How long to wait before it is tried again: a random part of the first, of twice as much, and so on up to the last.
FIRST_SECONDS = 0.5
LAST_SECONDS = 30.0

# What another server, or the same a little later, may not fail with. That of a token may have been its end.
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
}
_END_OF_TOKEN = grpc.StatusCode.UNAUTHENTICATED


def watch_request(
    after_cursor: str | None,
    model_rid: str | None,
    parent_folder_rid: str | None,
    branch: str | None,
    types: Iterable[str],
) -> WatchEventsRequest:
    """Return the request of these filters."""
    return WatchEventsRequest(
        after_cursor=after_cursor,
        model_rid=model_rid,
        parent_folder_rid=parent_folder_rid,
        branch=branch,
        types=types,
    )


class Progress:
    """Where a watch is, and whether it goes on after a failure."""

    def __init__(self, request: WatchEventsRequest) -> None:
        self.request = request
        self._has_begun = False
        self._failures = 0
        self._waiting: deque[Event] = deque()

    @property
    def cursor(self) -> str | None:
        """Where to go on behind all that was handed on; None before anything was, unless a cursor was given."""
        return self.request.after_cursor if self.request.HasField("after_cursor") else None

    def took(self, message: WatchEventsResponse) -> None:
        """Take note of a message; its events are handed on one by one."""
        self._has_begun, self._failures = True, 0
        self._waiting.extend(message.events)
        if not message.events:
            self.request.after_cursor = message.cursor

    def next_event(self) -> Event | None:
        """Hand on the event that came first of those that wait; None if none does."""
        if not self._waiting:
            return None
        event = self._waiting.popleft()
        self.request.after_cursor = event.cursor
        return event

    def pause_after(self, error: RegistryError | None) -> float:
        """Return for how many seconds to wait before it goes on after a failure, or after an end without one.

        Raises the error if the watch has not begun, or if it would only fail again.
        """
        if error is not None:
            ended_token = error.code() is _END_OF_TOKEN and self._failures == 0
            if not self._has_begun or not (ended_token or error.code() in _PASSING):
                raise error
        self._failures += 1
        longest = min(LAST_SECONDS, FIRST_SECONDS * 2.0 ** (self._failures - 1))
        return random.uniform(0, longest)  # noqa: S311 - it spreads those who were told the same


class Watch:
    """Events as they happen: iterate it, in one thread. `close`, which any thread may call, ends the iteration.

    It ends by itself never, but raises what would only happen again: CursorExpired, a model that is no longer visible,
    a token that is not renewed. A failure before the first message is raised whatever it is.
    """

    def __init__(self, open_stream: Callable[[WatchEventsRequest], Any], request: WatchEventsRequest) -> None:
        self._open = open_stream
        self._progress = Progress(request)
        self._stream: Any = None
        self._closing = threading.Event()

    @property
    def cursor(self) -> str | None:
        """Where to go on behind the event that came last; keep it where it outlasts the process."""
        return self._progress.cursor

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while not self._closing.is_set():
            event = self._progress.next_event()
            if event is not None:
                return event
            try:
                self._read()
            except StopIteration:
                pause = self._progress.pause_after(None)
            except RegistryError as error:
                if self._closing.is_set():
                    break
                pause = self._progress.pause_after(error)
            else:
                continue
            self._stream = None
            self._closing.wait(pause)
        raise StopIteration

    def close(self) -> None:
        """End it."""
        self._closing.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        if self._stream is None:
            self._stream = self._open(self._progress.request)
            # Whoever has closed it meanwhile did not see the stream.
            if self._closing.is_set():
                self._stream.cancel()
        self._progress.took(next(self._stream))
