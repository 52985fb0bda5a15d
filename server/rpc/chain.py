"""What happens around every handler, outermost first.

Before them stands admission: credentials are judged at a call's HEADERS, and a thread is taken once its message is
there; if too many calls wait for threads, one more is refused.

1. telemetry       one log line a call (none for health and reflection that went well), metrics and traces; it stands
                   outside to see what the others refuse.
2. errors          whatever is raised further in becomes a status; nothing leaves as UNKNOWN.
3. deadlines       what is done for a call ends with it, and nothing is begun for one that is over.
4. authentication  what admission found is raised here, or becomes the current caller; a stream asks again, part by
                   part, whether its caller was disabled.
5. validation      bytes become a request here and not in grpcio, whose own answer to bad ones is INTERNAL; then
                   `preview`, then the shape of every field.

Services open to anyone (health, reflection) pass the same way, but need no credentials and have no shape of ours.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from server.auth.credentials import Credentials
from server.core import cancellation, freshness, origin
from server.core.caller import Caller
from server.core.cancellation import Call, CallOver
from server.core.errors import ApiFeaturePreviewUsageOnly, FieldViolation, Internal, InvalidArgument, RegistryError
from server.core.freshness import Freshness
from server.core.origin import Origin
from server.core.permissions import MODELS_WRITE, RPC_SCOPES, is_open
from server.rpc.admission import Admission, Handler, authentication, authorization_of
from server.rpc.health import METHOD as SELF_CHECK_METHOD
from server.rpc.health import WATCH, SelfCheck
from server.rpc.held_streams import HeldStream
from server.rpc.peers import address_of
from server.rpc.status import abort
from server.rpc.streams import OpenStreams
from server.rpc.telemetry import CallRecord, ObserverOf, note_arrival, observers_for
from server.rpc.threads import Callers, CallThreads, run_on
from server.validation import validate

PROBE_THREADS = 2
# How many clients may ask for the schema at a time, each with a stream. Of more, one ends: `first_to_end`.
STREAMS = 16
# How many clients may watch our health at a time. The others are told that there is nothing to watch, which has them
# call as if all were well; an error would keep them from calling.
WATCHES = 1024
# More than may transfer model files at a time, so that the others are told so at once.
TRANSFER_THREADS = 64
# Calls that change something wait for each other, and share what a commit costs; so there are more of them at a time.
WRITE_THREADS = 16
# CreateModelVersion may bring files, and then waits for the file store, as no other unary call does.
CREATE_MODEL_VERSION = "/modelregistry.v1.ModelService/CreateModelVersion"
CREATION_THREADS = 4
# Comparisons take long and hold the interpreter's lock, so there are few of them at a time. CheckPromotion makes its
# own there; the changes that need one wait for it on their threads.
CHECK_PROMOTION = "/modelregistry.v1.PromotionService/CheckPromotion"
COMPARISON_THREADS = 2

Behaviour: TypeAlias = Callable[..., Any]

_caller: ContextVar[Caller] = ContextVar("caller")

log = logging.getLogger(__name__)


def current_caller() -> Caller:
    """Return the caller of the call that this thread is handling."""
    return _caller.get()


class _Method(NamedTuple):
    """The handlers of a method: for admitted calls, for refused ones, and for those beyond what can be answered."""

    serving: Handler
    refusing: Handler
    dropping: Handler


class Chain(grpc.ServerInterceptor):
    """The interceptor that puts the layers around each handler, once a method: a call then costs one wrapper."""

    def __init__(
        self,
        credentials: Credentials,
        observers_of: Sequence[ObserverOf],
        threads: int,
        receive_timeout_seconds: float,
        max_message_bytes: int,
        *,
        tells_positions: bool = False,
    ):
        """With `tells_positions`, calls are told where what they change is stored, and may bring such a position."""
        self._credentials = credentials
        self._tells_positions = tells_positions
        self.disabled = credentials.disabled
        # Returns why a caller may not go on with what is under way; None if nothing speaks against it.
        self.withdrawn = credentials.withdrawn
        self.admission = Admission(credentials, receive_timeout_seconds, max_message_bytes)
        # Together for all threads: those of one kind keep the calls of the other kinds waiting, too.
        self._callers = Callers()
        # Of the calls that have no others, which are those that only read.
        self.threads = CallThreads(threads, "rpc", callers=self._callers)
        self._observers_of = observers_of
        self._methods: dict[str, _Method] = {}
        # Calls of the gateway come on another thread than those of gRPC.
        self._wrapping = threading.Lock()
        self._streams = OpenStreams(STREAMS)
        self._watches = OpenStreams()
        self._at_stop: list[Callable[[], None]] = []
        # However many calls wait for the database, probes are answered.
        self._probes = CallThreads(PROBE_THREADS, "probes")
        # Twice as many as there are streams: those that make room need a moment.
        self._stream_threads = CallThreads(2 * STREAMS, "streams")
        # Streams of files keep no other calls waiting. A caller's are bounded where they have their places.
        self._transfer_threads = CallThreads(TRANSFER_THREADS, "transfers")
        # However many wait for a branch, reads are answered.
        self._write_threads = CallThreads(WRITE_THREADS, "writes", callers=self._callers)
        self._creation_threads = CallThreads(CREATION_THREADS, "creations", callers=self._callers)
        self._comparison_threads = CallThreads(COMPARISON_THREADS, "comparisons", callers=self._callers)
        # The server's calls of itself, and a thread that nothing else keeps busy.
        self.self_check = SelfCheck()
        self._self_check_threads = ThreadPoolExecutor(1, thread_name_prefix="self-check")

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the wrapped handler; None for a method that is not served, which the server answers itself."""
        note_arrival()
        name = handler_call_details.method
        if name == SELF_CHECK_METHOD and not self.self_check.may_call(handler_call_details):
            return None
        if name == WATCH and len(self._watches) >= WATCHES:
            return None
        method = self._methods.get(name)
        if method is None:
            handler = continuation(handler_call_details)
            if handler is None:
                return None
            with self._wrapping:
                if (method := self._methods.get(name)) is None:
                    method = self._methods[name] = self._wrap(name, handler)
        if is_open(name) or self.admission.judge(name, handler_call_details.invocation_metadata):
            return method.serving
        return method.dropping if self.admission.refusals.is_full else method.refusing

    def compare(self, work: Callable[[], None]) -> None:
        """Let a thread for comparisons do work for the current call, and return when it is done.

        Raises what the work raises, CallOver, and Overloaded if too many wait for these threads.
        """
        run_on(self._comparison_threads, current_caller().user, work)

    def at_stop(self, end: Callable[[], None]) -> None:
        """Let `end` be called when the server begins to stop: it ends streams that go on with another server."""
        self._at_stop.append(end)

    def end_streams(self) -> None:
        """End the streams that go on with another server, and take no more of them. It waits until they have ended."""
        for end in self._at_stop:
            end()

    def close(self) -> None:
        """Take no more calls, and end what serves them when it has."""
        self.admission.close()
        for threads in (
            self.threads,
            self._probes,
            self._stream_threads,
            self._transfer_threads,
            self._write_threads,
            self._creation_threads,
            self._comparison_threads,
        ):
            threads.close()

    def cancel_streams(self) -> None:
        """End the streams of health and reflection, also those that begin later: they do not end by themselves."""
        self._streams.cancel_all()
        self._watches.cancel_all()

    def _wrap(self, method: str, handler: Handler) -> _Method:
        kind = _kind(handler)
        behaviour: Behaviour = getattr(handler, kind)
        assert handler.request_deserializer is not None
        parse_one = _parser(method, handler.request_deserializer)

        authenticate = _authenticator(method, self._credentials, self._tells_positions)
        probe = is_open(method)
        # Streams end by themselves with their clients, and clear up what they leave.
        follows = not handler.request_streaming
        observers = () if method == SELF_CHECK_METHOD else tuple(observers_for(method, self._observers_of))

        require_enabled = self._credentials.require_enabled

        def parse_part(part: bytes) -> Any:
            if not probe:
                require_enabled(current_caller())
            return parse_one(part)

        def parse(request: Any) -> Any:
            return map(parse_part, request) if handler.request_streaming else parse_one(request)

        # `call`, `stream` and `hold` differ in little: `stream` is a generator, whose calls end by themselves; `hold`
        # returns while its call goes on. A context manager for each layer would be shorter, and take as long as the
        # work.
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            record = CallRecord(method, context, observers)
            try:
                if follows:
                    _follow(context)
                authenticate(record, context)
                answer = behaviour(parse(request), context)
                if self._tells_positions:
                    _tell_position(context)
                return answer
            except CallOver as over:
                withdrawn = None if record.caller is None else self._credentials.withdrawn(record.caller)
                _answer(withdrawn or over, context, record)
            except Exception as raised:
                _answer(raised, context, record)
            finally:
                record.end(context, probe)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            record = CallRecord(method, context, observers)
            try:
                authenticate(record, context)
                if probe:
                    self._streams.add(context)
                    yield from behaviour(parse(request), context)
                    return
                caller = current_caller()
                for part in behaviour(parse(request), context):
                    require_enabled(caller)
                    yield part
            except Exception as raised:
                _answer(raised, context, record)
            finally:
                record.end(context, probe)

        # Returns when the stream has begun, which then goes on without a thread.
        def hold(request: Any, context: grpc.ServicerContext, finish: Callable[[None], None]) -> None:
            record = CallRecord(method, context, observers)
            if not context.add_callback(lambda: record.end(context, probe)):
                record.end(context, probe)
                return
            try:
                _follow(context)
                authenticate(record, context)
                if probe:
                    self._watches.add(context)
                    held = HeldStream(context, finish, record)
                else:
                    expires = self._credentials.expiry(authorization_of(context.invocation_metadata()) or "")
                    held = HeldStream(context, finish, record, record.caller, expires)
                behaviour(parse(request), context, held)
            except CallOver as over:
                withdrawn = None if record.caller is None else self._credentials.withdrawn(record.caller)
                _answer(withdrawn or over, context, record)
            except Exception as raised:
                _answer(raised, context, record)

        wrapped: Behaviour = stream if handler.response_streaming else call
        if is_held(handler):
            wrapped = hold
            wrapped.experimental_non_blocking = True  # type: ignore[attr-defined]
        wrapped.experimental_thread_pool = self._threads_of(method, handler)  # type: ignore[attr-defined]
        make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
        serving = make(wrapped, request_deserializer=None, response_serializer=handler.response_serializer)
        return _Method(serving, *self.admission.refusing(call))

    def _threads_of(self, method: str, handler: Handler) -> ThreadPoolExecutor:
        """Return what grpcio takes for the threads of a method."""
        if method == SELF_CHECK_METHOD:
            return self._self_check_threads
        return self.admission.threads_for(
            method,
            self._pool(method, handler),
            is_open=is_open(method),
            is_stream=handler.request_streaming,
        )

    def _pool(self, method: str, handler: Handler) -> CallThreads:
        """Return the threads for a method's calls."""
        if is_open(method):
            return self._stream_threads if handler.request_streaming else self._probes
        if method == CREATE_MODEL_VERSION:
            return self._creation_threads
        if method == CHECK_PROMOTION:
            return self._comparison_threads
        if (handler.request_streaming or handler.response_streaming) and not is_held(handler):
            return self._transfer_threads
        return self._write_threads if RPC_SCOPES[method] == MODELS_WRITE else self.threads


def _answer(raised: Exception, context: grpc.ServicerContext, record: CallRecord) -> None:
    """Answer an exception with its status. Raises what ends the call."""
    if isinstance(raised, grpc.RpcError):
        # From the requests of a stream that was cancelled: no client waits for an answer, and grpcio knows it.
        record.cancelled = True
        raise raised
    if isinstance(raised, CallOver):
        # The client knows already, unless we noticed first that the time is up.
        record.cancelled = True
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "")
    if isinstance(raised, RegistryError):
        error, cause = raised, raised.__cause__
    else:
        error, cause = Internal(), raised
    if cause is not None:
        fields = {"error_instance_id": error.instance_id, "trace_id": record.trace_id}
        log.error("%s was caused by", error.name, exc_info=cause, extra={"fields": fields})
    record.error = error
    record.cancelled = not context.is_active()
    abort(context, error, record.request_id)


def _follow(context: grpc.ServicerContext) -> None:
    """Let this thread work for a call until the call ends. Raises CallOver if it has ended."""
    seconds = context.time_remaining()
    # Nothing may have told the server yet that the time is up, while the call waited for this thread.
    call = Call(seconds) if seconds is not None else Call()
    # When the call ends, however it does, and from a thread of the server's. Each call runs in a context of its own, so
    # what is set here ends with it, too.
    if call.is_over or not context.add_callback(call.end):
        raise CallOver
    cancellation.begin(call)


def _tell_position(context: grpc.ServicerContext) -> None:
    """Tell where what the call has changed is stored, if it has changed anything."""
    told = freshness.current_freshness()
    if told is not None and told.stored_at is not None:
        context.set_trailing_metadata(((freshness.POSITION, told.stored_at),))


def _authenticator(
    method: str, credentials: Credentials, tells_positions: bool
) -> Callable[[CallRecord, grpc.ServicerContext], None]:
    """Return the function that sets the caller of a call of this method, or raises the error that refuses the call."""
    needs_none = is_open(method)
    changes = RPC_SCOPES.get(method) == MODELS_WRITE

    def authenticate(record: CallRecord, context: grpc.ServicerContext) -> None:
        judged = authentication()
        if judged is None:
            if needs_none:
                return
            judged = credentials.verified(method, authorization_of(context.invocation_metadata()))
        elif judged.caller is not None and judged.error is None:
            # Its message may have come long after its headers, and its caller may have been disabled meanwhile.
            judged = credentials.of_caller(judged.caller, method)
        record.caller = judged.caller
        if judged.error is not None:
            raise judged.error
        if judged.caller is not None:
            # Each call runs in a context of its own, so this ends with it.
            _caller.set(judged.caller)
            if tells_positions:
                brought = [str(value) for key, value in context.invocation_metadata() if key == freshness.POSITION]
                # Of several, none is the one that counts: then the primary is read.
                freshness.begin(Freshness(judged.caller.user, ",".join(brought) if brought else None))
            if changes:
                origin.begin(Origin(record.request_id, address_of(context)))
            call = cancellation.current_call()
            if call is not None:
                call.ends_when(partial(credentials.disabled.has_any, judged.caller))

    return authenticate


def _parser(method: str, deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return the function that parses and validates the requests of a method.

    It raises InvalidArgument for bytes that are no such message, ApiFeaturePreviewUsageOnly, and what
    `server.validation.validate` raises, in this order.
    """
    takes_preview = "preview" in deserialize(b"").DESCRIPTOR.fields_by_name

    def parse(request_bytes: bytes) -> Any:
        try:
            return deserialize(request_bytes)
        except DecodeError:
            raise InvalidArgument(violations=(FieldViolation("", "the bytes are not a message of this RPC"),)) from None

    def parse_and_validate(request_bytes: bytes) -> Any:
        request = parse(request_bytes)
        # What this server does not know must not come back in an answer and then be missing from the stored version.
        request.DiscardUnknownFields()
        if takes_preview and not request.preview:
            raise ApiFeaturePreviewUsageOnly
        validate(request)
        return request

    return parse if is_open(method) else parse_and_validate


def is_held(handler: Handler) -> bool:
    """Whether the calls of a handler go on without a thread: see HeldStream."""
    return getattr(getattr(handler, _kind(handler)), "experimental_non_blocking", False)


def _kind(handler: Handler) -> str:
    """Return which of its four behaviours a handler has, such as `unary_unary`; the makers are named alike."""
    request, response = ("stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming))
    return f"{request}_{response}"
