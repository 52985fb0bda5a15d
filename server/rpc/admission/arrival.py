"""grpcio's private parts, all that we touch: a call whose message is on its way, and a stream that nothing waits for.

Its synchronous server takes a thread for a call as soon as the HEADERS are there. The thread then waits for the message
for as long as the client likes, before any code of ours runs: as many half-open calls as there are threads end a
service, and no option bounds it. What is public was tried first. `grpc.aio` waits without a thread, but costs
200 to 390 µs more a call than the 300 of an empty one (2 cores, one run), and may cost a read 10 %. A handler that
takes a stream is not kept waiting by grpcio, but has only a blocking way to ask for the message. And what an
interceptor raises, or leaves out, ends a call without its trailers.

So this module takes up where grpcio hands a call to its executor, which is public, and does there what grpcio's own
thread would do: it starts the same operation, and hands the call on when that is complete. tests/rpc/test_grpcio.py
says with which versions this was tried, and fails with any other.
"""

from __future__ import annotations

import functools
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

T = TypeVar("T")

_NO_FLAGS = 0


class Arrival:
    """A call that grpcio would give a thread now. It is ended once: served, by `abort` or by `cancel`."""

    __slots__ = ("_behaviour", "_event", "_run", "_serializers", "_serve", "_state", "_take_request")

    def __init__(
        self,
        run: Callable[..., Any],
        serve: Callable[..., None],
        event: Any,
        state: Any,
        behaviour: Callable[..., Any],
        take_request: Callable[[], Any],
        *serializers: Any,
    ) -> None:
        """Take what grpcio submits to an executor."""
        self._run = run
        self._serve = serve
        self._event = event
        self._state = state
        self._behaviour = behaviour
        self._take_request = take_request
        self._serializers = serializers

    @property
    def metadata(self) -> Any:
        """What the client sent with the call, as keys and values."""
        return self._event.invocation_metadata

    @property
    def connection(self) -> str:
        """The address and port of the client, as `ServicerContext.peer` has them."""
        connection: str = self._event.call.peer().decode()
        return connection

    @property
    def is_active(self) -> bool:
        """Whether the client waits for an answer."""
        with self._state.condition:
            return bool(_server._is_rpc_state_active(self._state))

    def in_context(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function where the call's context variables are. Not while the call is served."""
        result: T = self._run(function, *args)
        return result

    def receive(self, then: Callable[[bytes | None], None]) -> bool:
        """Let the message come in, without a thread; False if the client is gone.

        `then` gets it, or None if the client ended the call without one. It runs on the server's own thread, and must
        not raise.
        """
        state, call = self._state, self._event.call
        keep = _server._receive_message(state, call, None)

        def received(event: Any) -> Any:
            told = keep(event)
            with state.condition:
                message, state.request = state.request, None
            then(message)
            return told

        with state.condition:
            is_open = _server._is_rpc_state_active(state)
            if is_open:
                call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), received)
                state.due.add(_server._RECEIVE_MESSAGE_TOKEN)
        return is_open

    def on_end(self, then: Callable[[], object]) -> bool:
        """Let `then` be called when the call ends, however it does; False if it has ended already."""
        with self._state.condition:
            is_open = self._state.callbacks is not None
            if is_open:
                self._state.callbacks.append(then)
        return is_open

    def serving(self, message: bytes) -> Callable[[], object]:
        """Return what a thread does to serve the call, with its message."""
        return self._serving(lambda: message)

    def serving_stream(self, first: bytes | None) -> Callable[[], object]:
        """Return what a thread does to serve the call, with a stream of messages: the first, if any, and the others."""
        begun = () if first is None else (first,)
        return self._serving(lambda: itertools.chain(begun, self._take_request()))

    def cancel(self) -> None:
        """End the call without an answer."""
        self._event.call.cancel()

    def abort(self, code: grpc.StatusCode, message: str) -> None:
        """Answer with a status alone, without a thread."""
        with self._state.condition:
            _server._abort(self._state, self._event.call, _server._application_code(code), message.encode())

    def _serving(self, take_request: Callable[[], Any]) -> Callable[[], object]:
        return functools.partial(
            self._run, self._serve, self._event, self._state, self._behaviour, take_request, *self._serializers
        )


class Sender(ABC):
    """Sends messages of a call without a thread that waits: one at a time, the next when the client has taken it."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._event = context._rpc_event  # type: ignore[attr-defined]
        self._state = context._state  # type: ignore[attr-defined]
        # The call's own.
        self.lock: threading.Condition = self._state.condition
        # Whether a message is under way that the client has not taken.
        self.is_sending = False

    @abstractmethod
    def next_message(self) -> bytes | None:
        """Return what is sent next, or None.

        It is called with the lock held, also by the server's one thread; so it must neither wait nor raise.
        """

    def go_on(self) -> None:
        """Send what is next, unless a message is under way."""
        with self.lock:
            if not self.is_sending:
                self._send_next()

    def _send_next(self) -> None:
        state, message = self._state, self.next_message()
        self.is_sending = message is not None and _server._is_rpc_state_active(state)
        if not self.is_sending:
            return
        operations = [cygrpc.SendMessageOperation(message, _NO_FLAGS)]
        if state.initial_metadata_allowed:
            operations.insert(0, _server._get_initial_metadata_operation(state, None))
            state.initial_metadata_allowed = False
        keep = _server._send_message(state, _server._SEND_MESSAGE_TOKEN)

        def sent(event: Any) -> Any:
            with state.condition:
                told = keep(event)
                self._send_next()
            return told

        self._event.call.start_server_batch(operations, sent)
        state.due.add(_server._SEND_MESSAGE_TOKEN)


class Outbox(Sender):
    """Sends messages of a call of which one is under way, and of others the newest waits."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        super().__init__(context)
        self._newest: bytes | None = None

    def send(self, message: bytes) -> None:
        """Send a message as soon as the client has taken the one before; it takes the place of one that waits."""
        with self.lock:
            self._newest = message
            self.go_on()

    def next_message(self) -> bytes | None:
        """See Sender."""
        message, self._newest = self._newest, None
        return message
