"""Admission: a call gets a thread when its credentials are good and its message is there; others are refused.

A call is judged as soon as its HEADERS are there, on the one thread of grpcio's server, or for a request of HTTP on
that of the gateway's event loop: nothing may wait there. A known token is judged at once; an unknown one waits for a
verifier, and only then for its message. No call has a thread meanwhile, and no client can hold the thread that answers
a refused one.
"""

from __future__ import annotations

import functools
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc

from server.auth.credentials import VERIFIERS, Authentication, Credentials, joined
from server.core.errors import FieldViolation, InvalidArgument, InvalidCredentials, Overloaded, RegistryError
from server.rpc.admission.arrival import Arrival
from server.rpc.admission.delayed_refusals import DelayedRefusals
from server.rpc.admission.receiving import LARGE_BYTES, Receiving
from server.rpc.in_process import InProcessArrival
from server.rpc.threads import CallThreads

# How many refusals may wait for their thread: what it does for one takes 0.3 ms.
REFUSALS = 1024
# How long a known caller waits to be told that there are too many calls, and how long after it the next one.
HOLD_SECONDS = 0.5
HOLD_PAUSE_SECONDS = 0.004

_TOO_MANY_REFUSALS = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded: too many calls are refused at once")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# Of a call, in its own context.
_authentication: ContextVar[Authentication | None] = ContextVar("authentication", default=None)

_DONE: Future[Any] = Future()
_DONE.set_result(None)

log = logging.getLogger(__name__)


def authentication() -> Authentication | None:
    """Return what the credentials of the current call prove; None if they were not looked at yet."""
    return _authentication.get()


class Admission:
    """Judges the credentials of calls, and hands the calls to threads."""

    def __init__(self, credentials: Credentials, receive_timeout_seconds: float, max_message_bytes: int) -> None:
        self._credentials = credentials
        self._verifiers = CallThreads(VERIFIERS, "verifiers")
        # Its thread waits for no client: what it answers does not wait for a message.
        self.refusals = CallThreads(1, "refusals", REFUSALS)
        self.receiving = Receiving(receive_timeout_seconds, max_message_bytes)
        # Known callers have one of their own, so that strangers cannot delay their answers.
        self.callers_refusals = CallThreads(1, "callers-refusals", REFUSALS)
        self.delayed_refusals = DelayedRefusals(HOLD_SECONDS, HOLD_PAUSE_SECONDS, REFUSALS)
        self._counting = threading.Lock()
        self._without_line = 0

    def close(self) -> None:
        """Stop enforcing the time limit for messages, and answer what waits for an answer."""
        self.receiving.close()
        self.delayed_refusals.close()
        for threads in (self._verifiers, self.refusals, self.callers_refusals):
            threads.close()

    def judge(self, method: str, metadata: Any) -> bool:
        """Judge the credentials of a call, where nothing may wait; False if it is refused as a stranger's.

        A known caller who is refused passes, and is answered by `callers_refusals`.
        """
        judged = self._credentials.from_cache(method, authorization_of(metadata))
        if judged is None and self._verifiers.is_full:
            judged = Authentication(None, Overloaded())
        if judged is not None and isinstance(judged.error, InvalidCredentials):
            return False  # The reason is looked up again, and logged, where the call is answered.
        _authentication.set(judged)
        return judged is None or judged.caller is not None

    def refusing(self, behaviour: Callable[..., Any]) -> tuple[Handler, Handler]:
        """Return the handlers of refused calls: one answers with a behaviour that raises the reason, one in short.

        The short answer is for when too many are refused. To gRPC both take streams, so that it waits for no message.
        """

        def refuse(_: Any, context: grpc.ServicerContext) -> Any:
            if not context.is_active():
                self.count_one_without_line()
                return None
            self._tell_of_others()
            return behaviour(b"", context)

        def drop(_: Any, context: grpc.ServicerContext) -> None:
            self.count_one_without_line()
            context.abort(*_TOO_MANY_REFUSALS)

        def submit(fn: Callable[..., Any], *args: Any) -> None:
            self.refusals.submit(functools.partial(fn, *args))

        def run(fn: Callable[..., Any], *args: Any) -> None:
            fn(*args)

        refuse.experimental_thread_pool = _Executor(submit)  # type: ignore[attr-defined]
        drop.experimental_thread_pool = _Executor(run)  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(refuse), grpc.stream_unary_rpc_method_handler(drop)

    def threads_for(self, method: str, threads: CallThreads, *, is_open: bool, is_stream: bool) -> ThreadPoolExecutor:
        """Return the executor to which the calls of a method are submitted that were not refused."""

        def enter(submitted: Any, *more: Any) -> None:
            call: _Call
            if isinstance(submitted, InProcessArrival):
                call = _InProcessCall(submitted, self, threads)
            else:
                call = _GrpcCall(Arrival(submitted, *more), self, threads, is_stream=is_stream)
            try:
                if call.error is not None:
                    call.refuse(call.error)
                elif call.caller is None and not is_open:
                    self.verify(call, method)
                else:
                    call.receive()
            except Exception:
                call.fail()

        return _Executor(enter)

    def verify(self, call: _Call, method: str) -> None:
        """Verify the token of a call in a thread for that; then its message may come in, or it is refused."""

        def verify() -> None:
            try:
                if not call.is_active:
                    self.count_one_without_line()
                    return
                judged = self._credentials.verified(method, call.authorization)
                call.note(judged)
                if judged.error is None:
                    call.receive()
                else:
                    call.refuse(judged.error)
            except Exception:
                call.fail()

        self._verifiers.submit(verify)

    def count_one_without_line(self) -> None:
        """Count a call that is refused without a line of its own."""
        with self._counting:
            self._without_line += 1

    def _tell_of_others(self) -> None:
        with self._counting:
            count, self._without_line = self._without_line, 0
        if count:
            log.warning("calls without a line of their own, since too many came or were given up: %d", count)


def authorization_of(metadata: Any) -> str | None:
    """Return the credentials in a call's metadata."""
    return joined([str(value) for key, value in metadata if key == "authorization"])


class _Call(ABC):
    """A call on its way to a thread."""

    def __init__(self, arrival: Arrival | InProcessArrival, admission: Admission, threads: CallThreads) -> None:
        self._arrival = arrival
        self._admission = admission
        self._threads = threads
        # Whether all that its client sends is here, and how large its message is while it is counted.
        self._is_complete = False
        self._size = 0
        self._judged = arrival.in_context(_authentication.get) or Authentication(None)

    @property
    def caller(self) -> str | None:
        """Its caller, by principal; None for strangers."""
        return self._judged.caller.user if self._judged.caller else None

    @property
    def error(self) -> RegistryError | None:
        """The error that refuses it, if one does."""
        return self._judged.error

    @property
    def is_active(self) -> bool:
        """Whether its client waits for an answer."""
        return self._arrival.is_active

    @property
    def authorization(self) -> str | None:
        """Its credentials."""
        return authorization_of(self._arrival.metadata)

    def note(self, judged: Authentication) -> None:
        """Set what its credentials prove."""
        self._judged = judged
        self._arrival.in_context(_authentication.set, judged)

    @abstractmethod
    def receive(self) -> None:
        """Let it have a thread when its message is there."""

    @abstractmethod
    def _serving(self, message: bytes | None) -> Callable[[], object]:
        """Return what a thread does to serve it. Raises InvalidArgument."""

    def refuse(self, error: RegistryError) -> None:
        """Answer with an error; where too many are refused, with a status that says so, without details.

        A known caller is told a little later that there are too many calls. Told at once, one that asks again at once
        would keep the server busy with nothing else. Where bytes of the call are still on their way, it is told at
        once, since gRPC keeps them as long as the call lasts.
        """
        may_wait = isinstance(error, Overloaded) and self.caller is not None and self._is_complete
        if may_wait and self._admission.delayed_refusals.add(lambda: self._refuse_later(error)):
            return
        self._refuse(error)

    def _refuse_later(self, error: RegistryError) -> None:
        try:
            self._refuse(error)
        except Exception:
            self.fail()

    def _refuse(self, error: RegistryError) -> None:
        threads = self._admission.refusals if self.caller is None else self._admission.callers_refusals
        self.note(Authentication(self._judged.caller, error))
        try:
            self._submit(threads, self._arrival.serving(b""), self._refuse_in_short)
        except Overloaded:
            self._refuse_in_short()

    def fail(self) -> None:
        """Log the exception that is being handled, such as that no thread can be started, and end the call."""
        log.exception("a call was lost on its way to a thread")
        self._arrival.cancel()

    def _received(self, message: bytes | None) -> None:
        try:
            try:
                self._take(message)
            except RegistryError as error:
                # It may be told later, and must not hold the message until then, as frames do.
                message = None
                self.refuse(error.with_traceback(None))
        except Exception:
            self.fail()

    def _take(self, message: bytes | None) -> None:
        size = 0 if message is None else len(message)
        self._admission.receiving.take(self.caller, size)
        self._size = size
        try:
            self._serve(message)
        except BaseException:
            self._forget_message()
            raise

    def _serve(self, message: bytes | None) -> None:
        serving = self._serving(message)
        if self._size >= LARGE_BYTES:
            serving = functools.partial(self._serve_large, serving)
        self._submit(self._threads, serving, lambda: self.refuse(Overloaded()))

    def _serve_large(self, serving: Callable[[], object]) -> None:
        try:
            serving()
        finally:
            self._forget_message()

    def _forget_message(self) -> None:
        size, self._size = self._size, 0
        self._admission.receiving.done(self.caller, size)

    def _submit(self, threads: CallThreads, serving: Callable[[], object], give_way: Callable[[], None]) -> None:
        """Let a thread serve the call when it is its caller's turn; or let it `give_way` to others if they come first.

        One that is over before its turn gives its place up at once. Raises Overloaded.
        """

        def leave() -> None:
            if threads.withdraw(submitted):
                self._forget_message()
                self._admission.count_one_without_line()

        def make_room() -> None:
            self._forget_message()
            try:
                if self.is_active:
                    give_way()
                else:
                    self._admission.count_one_without_line()
            except Exception:
                self.fail()

        submitted = threads.submit_for(self.caller, serving, make_room)
        if not self._arrival.on_end(leave):
            leave()

    def _refuse_in_short(self) -> None:
        self._admission.count_one_without_line()
        self._arrival.abort(*_TOO_MANY_REFUSALS)


class _InProcessCall(_Call):
    """A call of this process itself, whose message is there."""

    _arrival: InProcessArrival

    def receive(self) -> None:
        """See _Call."""
        self._is_complete = True
        self._received(self._arrival.take_message())

    def _serving(self, message: bytes | None) -> Callable[[], object]:
        assert message is not None
        return self._arrival.serving(message)


class _GrpcCall(_Call):
    """A call of gRPC, whose message, or stream of messages, may be on its way."""

    _arrival: Arrival

    def __init__(self, arrival: Arrival, admission: Admission, threads: CallThreads, *, is_stream: bool) -> None:
        super().__init__(arrival, admission, threads)
        self._is_stream = is_stream

    @property
    def connection(self) -> str:
        """The address and port of its client."""
        return self._arrival.connection

    def receive(self) -> None:
        """See _Call."""
        self._admission.receiving.enter(self)

    def begin(self) -> bool:
        """Let the message come in; False if the client is gone."""
        return self._arrival.receive(self._arrived)

    def drop(self) -> None:
        """End it without an answer."""
        self._admission.count_one_without_line()
        self._arrival.cancel()

    def _arrived(self, message: bytes | None) -> None:
        try:
            is_wanted = self._admission.receiving.arrived(self)
        except Exception:
            self.fail()
        else:
            self._is_complete = not self._is_stream
            if is_wanted:
                self._received(message)

    def _serving(self, message: bytes | None) -> Callable[[], object]:
        if self._is_stream:
            return self._arrival.serving_stream(message)
        if message is None:
            # If the client has gone, this is not sent.
            raise InvalidArgument(violations=(FieldViolation("", "the call ended without a message"),))
        return self._arrival.serving(message)


class _Executor(ThreadPoolExecutor):
    """What grpcio takes for the threads of a method: it has none, and hands what is submitted to a function."""

    def __init__(self, take: Callable[..., object]) -> None:
        super().__init__(1)
        self._take = take

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        """Hand over what a thread is to do. gRPC asks the future only if it bounds concurrent calls itself."""
        self._take(fn, *args)
        return _DONE
