"""Streams that go on when the thread that has begun them does something else: what is sent waits in a queue."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

import grpc

from server.core.caller import Caller
from server.core.errors import RegistryError
from server.rpc.admission.arrival import Sender
from server.rpc.status import set_status
from server.rpc.telemetry import CallRecord


class HeldStream(Sender):
    """A call that is answered by whoever has something to tell, without a thread; safe to share between threads.

    A handler for such calls has the attribute `experimental_non_blocking`, is given one of these, and returns at once.
    """

    def __init__(
        self,
        context: grpc.ServicerContext,
        finish: Callable[[None], None],
        record: CallRecord,
        caller: Caller | None = None,
        expires: float = math.inf,
    ) -> None:
        """`finish` is what grpcio gives to its handlers of such calls. The caller's token expires at that time.

        It is in seconds since the epoch.
        """
        super().__init__(context)
        self.caller = caller
        self.expires = expires
        self._context = context
        self._finish = finish
        self._record = record
        # Messages, and the places behind them.
        self._waiting: deque[tuple[bytes, str]] = deque()
        self._moved_at = time.monotonic()
        self._error: RegistryError | None = None
        self._has_ended = False
        self._has_room: Callable[[], None] | None = None
        # How many bytes wait, beside the message that is under way.
        self.waiting_bytes = 0
        # The place behind the last message that was sent; empty before the first one.
        self.place = ""

    @property
    def is_ending(self) -> bool:
        """Whether it was told to end."""
        return self._error is not None

    def stalled_since(self) -> float:
        """Return since when the client takes nothing of what waits, by the monotonic clock; inf if nothing waits."""
        with self.lock:
            return self._moved_at if self.is_sending else math.inf

    def on_end(self, then: Callable[[], None]) -> bool:
        """Let `then` be called when the call has ended, however it does; False if it has ended already."""
        return self._context.add_callback(then)

    def send(self, message: bytes, place: str) -> None:
        """Send a message, once the client has taken those before; it does not wait. Nothing is sent behind the end."""
        with self.lock:
            if self._error is None:
                self._add(message, place)

    def when_room(self, then: Callable[[], None]) -> None:
        """Let `then` be called once, when nothing waits, by any thread; it must neither wait nor raise."""
        with self.lock:
            self._has_room = then
            self.go_on()

    def end(self, error: RegistryError, last: tuple[bytes, str] | None = None) -> None:
        """End with an error, once the client has taken what waits, and one more message if there is one."""
        with self.lock:
            if self._error is None:
                self._error = error
                if last is not None:
                    self._add(*last)
                self.go_on()

    def end_now(self, error: RegistryError) -> None:
        """End with an error, behind the message that is under way; what waits is not sent."""
        with self.lock:
            if self._error is None:
                self._error = error
                self._forget_waiting()
                self._end()

    def cancel(self) -> None:
        """End it at once. What waits is not sent, and the client is told no reason."""
        with self.lock:
            self._forget_waiting()
        self._context.cancel()

    def _add(self, message: bytes, place: str) -> None:
        self._waiting.append((message, place))
        self.waiting_bytes += len(message)
        if not self.is_sending:
            self.go_on()

    def close(self) -> None:
        """Let go of what waits, now that the call has ended."""
        with self.lock:
            self._forget_waiting()
            self._has_room = None

    def next_message(self) -> bytes | None:
        """See Sender."""
        self._moved_at = time.monotonic()
        message = None
        if self._waiting:
            message, self.place = self._waiting.popleft()
            self.waiting_bytes -= len(message)
        elif self._error is not None:
            self._end()
        if not self._waiting and self._has_room is not None:
            has_room, self._has_room = self._has_room, None
            has_room()
        return message

    def _end(self) -> None:
        if not self._has_ended and self._error is not None:
            self._has_ended = True
            self._record.error = self._error
            set_status(self._context, self._error, self._record.request_id)
            self._finish(None)

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self.waiting_bytes = 0
