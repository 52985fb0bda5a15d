"""What happens around every handler, outermost first.

Before them stands admission: where too many calls wait for threads, one more is refused at once.

1. telemetry       one log line a call, metrics and traces; it stands outside to see what the others refuse.
2. errors          whatever is raised further in becomes a status; nothing leaves as UNKNOWN.
3. deadlines       what is done for a call ends with it, and nothing is begun for one that is over.
4. authentication  before parsing: strangers make us work as little as can be. Then the scope.
5. validation      bytes become a request here and not in grpcio, whose own answer to bad ones is INTERNAL; then
                   `preview`, then the shape of every field.

Services open to anyone (health, reflection) pass the same way, but need no credentials and have no shape of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc

from server.auth.access import MODELS_WRITE, PERMISSIONS, is_open
from server.auth.tokens import TokenVerifier
from server.errors import Overloaded
from server.rpc.call_threads import CallThreads
from server.rpc.interceptors.authentication import authenticator
from server.rpc.interceptors.deadlines import follow
from server.rpc.interceptors.errors import answer
from server.rpc.interceptors.telemetry import CallRecord, Watch, WatchOf, watches_for
from server.rpc.interceptors.validation import parser
from server.rpc.self_check import METHOD as SELF_CHECK_METHOD
from server.rpc.self_check import SelfCheck

Behaviour = Callable[..., Any]
PROBE_THREADS = 2
# One for each client that watches our health; they are made as they are needed.
STREAM_THREADS = 256
# More than may transfer model files at a time, so that the others are told so at once.
TRANSFER_THREADS = 64
# Calls that change something wait for each other, and share what a commit costs; so there are more of them at a time.
WRITE_THREADS = 8
# Those who bring a version with its files wait for the file store, which no other call does.
CREATE_MODEL_VERSION = "/modelregistry.v1.ModelService/CreateModelVersion"
CREATION_THREADS = 4

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_UNBOUNDED = (None, None)


class Chain(grpc.ServerInterceptor):
    """Puts the layers around each handler, once a method: a call then costs one wrapper."""

    def __init__(self, verifier: TokenVerifier, watches_of: Sequence[WatchOf] = (), threads: int = 4):
        self._verifier = verifier
        # The server's own: all calls that have no others, which are those that only read.
        self.threads = CallThreads(threads, "rpc")
        self._watches_of = watches_of
        self._wrapped: dict[str, Handler] = {}
        self._streams: set[grpc.ServicerContext] = set()
        self._closing = False
        # However many calls wait for the database, probes are answered; and however many streams are open.
        self._probes = ThreadPoolExecutor(PROBE_THREADS, thread_name_prefix="probes")
        self._stream_threads = ThreadPoolExecutor(STREAM_THREADS, thread_name_prefix="streams")
        # Nor do streams of files keep other calls waiting.
        self._transfer_threads = ThreadPoolExecutor(TRANSFER_THREADS, thread_name_prefix="transfers")
        # However many wait for a branch, reads are answered.
        self._write_threads = CallThreads(WRITE_THREADS, "writes")
        self._creation_threads = CallThreads(CREATION_THREADS, "creations")
        # The server's calls of itself, and a thread that nothing else keeps busy.
        self.self_check = SelfCheck()
        self._self_check_threads = ThreadPoolExecutor(1, thread_name_prefix="self-check")
        self._refusals = ThreadPoolExecutor(1, thread_name_prefix="refusals")
        # By method, those whose threads are bounded, and what answers where these are full.
        self._bounded: dict[str, tuple[CallThreads, Handler]] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the wrapped handler; None for a method that is not served, which grpcio answers itself."""
        method = handler_call_details.method
        if method == SELF_CHECK_METHOD and not self.self_check.may_call(handler_call_details):
            return None
        if method not in self._wrapped:
            handler = continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[method] = self._wrap(method, handler)
        threads, refusing = self._bounded.get(method, _UNBOUNDED)
        return refusing if threads is not None and threads.is_full else self._wrapped[method]

    def cancel_streams(self) -> None:
        """End the open services' streams, now and from now on: who watches our health does not end by itself."""
        self._closing = True
        for context in tuple(self._streams):
            context.cancel()

    def _wrap(self, method: str, handler: Handler) -> Handler:
        kind = _kind(handler)
        behaviour: Behaviour = getattr(handler, kind)
        assert handler.request_deserializer is not None
        parse_one = parser(method, handler.request_deserializer)

        authenticate = authenticator(method, self._verifier)
        probe = is_open(method)
        # Streams end by themselves with their clients, and clear up what they leave.
        follows = not handler.request_streaming
        watches = () if method == SELF_CHECK_METHOD else tuple(watches_for(method, self._watches_of))

        def parse(request: Any) -> Any:
            return map(parse_one, request) if handler.request_streaming else parse_one(request)

        # Twice the same, since one that yields is another kind of function; and without a context manager for each
        # layer, since these would take as long as the work.
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            record = CallRecord(method, context, watches)
            try:
                if follows:
                    follow(context)
                authenticate(record)
                return behaviour(parse(request), context)
            except Exception as raised:
                answer(raised, context, record)
            finally:
                record.end(context, probe)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            record = CallRecord(method, context, watches)
            try:
                authenticate(record)
                yield from behaviour(parse(request), context)
            except Exception as raised:
                answer(raised, context, record)
            finally:
                record.end(context, probe)

        wrapped: Behaviour = stream if handler.response_streaming else call
        if probe and handler.response_streaming:
            wrapped = self._remembered(stream)
        pool = self._pool(method, handler)
        wrapped.experimental_thread_pool = pool  # type: ignore[attr-defined]
        if isinstance(pool, CallThreads):
            self._bounded[method] = (pool, self._refusing(method, watches))
        make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(wrapped, request_deserializer=None, response_serializer=handler.response_serializer)

    def _refusing(self, method: str, watches: Sequence[Watch]) -> Handler:
        """Return what answers a method's calls while too many wait: at once, and whoever calls."""

        def refuse(_: Any, context: grpc.ServicerContext) -> None:
            record = CallRecord(method, context, watches)
            try:
                answer(Overloaded(), context, record)
            finally:
                record.end(context, is_probe=False)

        refuse.experimental_thread_pool = self._refusals  # type: ignore[attr-defined]
        return grpc.unary_unary_rpc_method_handler(refuse)

    def _pool(self, method: str, handler: Handler) -> ThreadPoolExecutor:
        """Return the threads for a method's calls."""
        if method == SELF_CHECK_METHOD:
            return self._self_check_threads
        if is_open(method):
            return self._stream_threads if handler.response_streaming else self._probes
        if method == CREATE_MODEL_VERSION:
            return self._creation_threads
        if handler.request_streaming or handler.response_streaming:
            return self._transfer_threads
        return self._write_threads if PERMISSIONS[method].scope == MODELS_WRITE else self.threads

    def _remembered(self, behaviour: Behaviour) -> Behaviour:
        """Keep the contexts of a streaming handler's calls for as long as they are open."""

        def remembered(request: Any, context: grpc.ServicerContext) -> Any:
            self._streams.add(context)
            still_open = context.add_callback(lambda: self._streams.discard(context))
            if not still_open:
                self._streams.discard(context)
            elif self._closing:
                context.cancel()
            return behaviour(request, context)

        return remembered


def _kind(handler: Handler) -> str:
    """Return which of its four behaviours a handler has, such as `unary_unary`; the makers are named alike."""
    request, response = ("stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming))
    return f"{request}_{response}"
