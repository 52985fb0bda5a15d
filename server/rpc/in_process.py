"""Calls that this process makes of its own RPCs, without a connection: the gateway makes them for requests of HTTP.

They meet the interceptor, the handlers and the threads that those of gRPC meet, so what a call is promised is kept by
the same code. What grpcio does around these is done here: a call has its own context variables, it is handed to the
threads that its handler names, and it ends once, with whatever comes first of its answer, its deadline and its
cancellation.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar

import grpc

from server.core.errors import RequestTooLarge
from server.rpc.peers import http_peer

T = TypeVar("T")

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """How a call ended: with an answer if the code is OK, and with what goes behind it."""

    code: grpc.StatusCode
    answer: Any = None
    trailing_metadata: Metadata = ()


class _Aborted(Exception):
    """Unwinds the handler that has aborted its call."""


class InProcessCall(grpc.ServicerContext):
    """A call, as its handler sees it; safe to share between threads."""

    def __init__(self, metadata: Metadata, peer: str, seconds: float, ended: Callable[[Outcome], None]) -> None:
        """There are so many seconds for it: it is for the caller to `end` it then.

        `ended` is told the outcome, once, by any thread.
        """
        self._metadata = metadata
        self._peer = peer
        self._deadline = time.monotonic() + seconds
        self._ended: Callable[[Outcome], None] | None = ended
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] | None = []
        self._code = grpc.StatusCode.OK
        self._trailing_metadata: Metadata = ()

    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self._callbacks is not None

    def time_remaining(self) -> float:
        """Return how many seconds there are left for it."""
        return max(0.0, self._deadline - time.monotonic())

    def cancel(self) -> bool:
        """End it as cancelled; False if it has ended already."""
        return self.end(grpc.StatusCode.CANCELLED)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Let this be called when it ends; False if it has ended already.

        It may be called by the thread of the gateway's event loop, and must not wait.
        """
        with self._lock:
            if self._callbacks is None:
                return False
            self._callbacks.append(callback)
            return True

    def invocation_metadata(self) -> Metadata:
        """Return what came with it."""
        return self._metadata

    def peer(self) -> str:
        """Return where it came from: see `server.rpc.peers`."""
        return self._peer

    def peer_identities(self) -> None:
        """Return None: no connection proves anything of its client."""

    def peer_identity_key(self) -> None:
        """Return None, as `peer_identities`."""

    def auth_context(self) -> dict[str, bytes]:
        """Return nothing, as `peer_identities`."""
        return {}

    def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Raise NotImplementedError: all that is told is told at the end."""
        raise NotImplementedError

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Set what goes behind its answer."""
        self._trailing_metadata = trailing_metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code that it ends with."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Do nothing: the caller is told the code and the trailing metadata, which have all of it."""

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Let it end with this code, at once."""
        self._code = code
        raise _Aborted

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Let it end with this status, at once."""
        self._trailing_metadata = status.trailing_metadata
        self.abort(status.code, status.details)

    def serve(self, behaviour: Callable[[bytes, grpc.ServicerContext], Any], message: bytes) -> None:
        """Let a handler answer it, on this thread."""
        answer = None
        try:
            answer = behaviour(message, self)
        except _Aborted:
            pass
        except Exception:
            # The chain answers what its handlers raise.
            log.exception("a call was lost in its handler")
            self._code = grpc.StatusCode.UNKNOWN
        self._end(Outcome(self._code, answer, self._trailing_metadata))

    def end(self, code: grpc.StatusCode) -> bool:
        """End it with a code alone; False if it has ended already."""
        return self._end(Outcome(code))

    def _end(self, outcome: Outcome) -> bool:
        with self._lock:
            callbacks, self._callbacks = self._callbacks, None
            ended, self._ended = self._ended, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                log.exception("what was to be done at the end of a call failed")
        if ended is not None:
            ended(outcome)
        return ended is not None


class InProcessArrival:
    """A call that waits for its thread, with its message: what `server.rpc.admission.arrival.Arrival` is of gRPC.

    Called, it is served, which is what an executor does with it that knows nothing of calls.
    """

    __slots__ = ("_behaviour", "_call", "_context", "_message")

    def __init__(
        self, call: InProcessCall, context: contextvars.Context, behaviour: Callable[..., Any], message: bytes
    ) -> None:
        self._call = call
        self._context = context
        self._behaviour = behaviour
        self._message = message

    def __call__(self) -> None:
        """Serve it."""
        self.serving(self.take_message())()

    @property
    def metadata(self) -> Metadata:
        """What the client sent with the call."""
        return self._call.invocation_metadata()

    @property
    def is_active(self) -> bool:
        """Whether the client waits for an answer."""
        return self._call.is_active()

    def in_context(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function where the call's context variables are. Not while the call is served."""
        return self._context.run(function, *args)

    def take_message(self) -> bytes:
        """Return all of what the client sends, and keep nothing of it."""
        message, self._message = self._message, b""
        return message

    def on_end(self, then: Callable[[], None]) -> bool:
        """Let `then` be called when the call ends, however it does; False if it has ended already."""
        return self._call.add_callback(then)

    def serving(self, message: bytes) -> Callable[[], object]:
        """Return what a thread does to serve the call, with this message."""
        call, context, behaviour = self._call, self._context, self._behaviour
        return lambda: context.run(call.serve, behaviour, message)

    def cancel(self) -> None:
        """End the call without an answer."""
        self._call.cancel()

    def abort(self, code: grpc.StatusCode, message: str) -> None:
        """Answer with a code alone, without a thread."""
        self._call.end(code)


class _Details(NamedTuple):
    method: str
    invocation_metadata: Metadata


class InProcessServer:
    """Serves calls of this process itself. Generated code adds services to it as to a server of gRPC."""

    def __init__(self, interceptor: grpc.ServerInterceptor, max_message_bytes: int) -> None:
        self._interceptor = interceptor
        self._max_message_bytes = max_message_bytes
        self._services: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Serve what these handle."""
        self._services += handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing: what is registered by name is among the generic handlers, too."""

    def begin(
        self,
        method: str,
        message: bytes,
        metadata: Metadata,
        address: str,
        seconds: float,
        ended: Callable[[Outcome], None],
    ) -> InProcessCall:
        """Begin a call of a unary RPC, `/package.Service/Method`, and return it; it waits for nothing.

        The message is serialized, and the answer is a message as the handler returns it; `address` is the client's, or
        empty. `ended` is told the outcome, by any thread, perhaps before this returns, and must neither wait nor raise.
        Raises RequestTooLarge.
        """
        if len(message) > self._max_message_bytes:
            raise RequestTooLarge
        call = InProcessCall(metadata, http_peer(address), seconds, ended)
        context = contextvars.Context()
        handler: Any = context.run(self._interceptor.intercept_service, self._handler, _Details(method, metadata))  # type: ignore[arg-type]
        if handler is None:
            call.end(grpc.StatusCode.UNIMPLEMENTED)
            return call
        # The handlers of refused calls take a stream: see `Admission.refusing`.
        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
        behaviour.experimental_thread_pool.submit(InProcessArrival(call, context, behaviour, message))
        return call

    def _handler(self, details: grpc.HandlerCallDetails) -> Any:
        return next((handler for each in self._services if (handler := each.service(details)) is not None), None)
