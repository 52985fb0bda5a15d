"""Callers who watch events."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.event_service_pb2 import WatchEventsRequest, WatchEventsResponse
from modelregistry.v1.event_service_pb2_grpc import EventServiceStub
from tests.rpc.harness import DEADLINE_SECONDS, Failure, User, failure_of


class Watching:
    """A stream of events, read by a thread as they come."""

    def __init__(self, user: User, **fields: Any):
        self.call = EventServiceStub(user.channel).WatchEvents(
            WatchEventsRequest(**fields), metadata=user.metadata, timeout=DEADLINE_SECONDS
        )
        self._told: queue.SimpleQueue[WatchEventsResponse | grpc.RpcError | None] = queue.SimpleQueue()
        self.cursor = fields.get("after_cursor", "")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self) -> WatchEventsResponse:
        """The next message. Raises grpc.RpcError."""
        told = self._told.get(timeout=DEADLINE_SECONDS)
        if told is None:
            raise AssertionError("the stream has ended with OK")
        if isinstance(told, grpc.RpcError):
            raise told
        self.cursor = told.cursor
        return told

    def next_event(self) -> Event:
        """The next event, past bookmarks. Raises grpc.RpcError."""
        while not (told := self.next()).events:
            pass
        return told.events[0]

    def bookmark(self) -> str:
        """The cursor of the next message, which must be a bookmark."""
        told = self.next()
        assert not told.events, told
        return told.cursor

    def until(self, is_last: Callable[[Event], bool]) -> list[Event]:
        """The next events, up to one."""
        events = [self.next_event()]
        while not is_last(events[-1]):
            events.append(self.next_event())
        return events

    def rest(self) -> tuple[list[WatchEventsResponse], Failure]:
        """What else is told, and how the stream ends."""
        told = []
        while True:
            try:
                told.append(self.next())
            except grpc.RpcError as error:
                return told, failure_of(error)

    def close(self) -> None:
        self.call.cancel()
        self._thread.join(DEADLINE_SECONDS)

    def _read(self) -> None:
        try:
            for told in self.call:
                # Each event of a message alone, as one that had come by itself.
                for event in told.events:
                    self._told.put(WatchEventsResponse(events=[event], cursor=event.cursor))
                if not told.events:
                    self._told.put(told)
        except grpc.RpcError as error:
            self._told.put(error)
        else:
            self._told.put(None)


@contextmanager
def watching(user: User, **fields: Any) -> Iterator[Watching]:
    """A stream of events, until the block ends."""
    watch = Watching(user, **fields)
    try:
        yield watch
    finally:
        watch.close()
