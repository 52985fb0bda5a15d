"""Calls without a connection: what their handlers see of them, and how they end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from server.rpc.in_process import InProcessCall, InProcessServer, Outcome

METHOD = "/some.Service/Do"
SECONDS = 60.0

Behaviour = Callable[[bytes, grpc.ServicerContext], Any]

noted: ContextVar[str] = ContextVar("noted", default="")


class Service(grpc.GenericRpcHandler, grpc.ServerInterceptor):
    """Has one method, whose calls have a thread of a pool."""

    def __init__(self, behaviour: Behaviour, threads: ThreadPoolExecutor) -> None:
        self.handler = grpc.unary_unary_rpc_method_handler(behaviour)
        behaviour.experimental_thread_pool = threads  # type: ignore[attr-defined]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self.handler if handler_call_details.method == METHOD else None

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        noted.set("by the interceptor" + noted.get())
        return continuation(handler_call_details)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


class Calls:
    """Makes calls of one handler, and takes their outcomes."""

    def __init__(self, behaviour: Behaviour, threads: ThreadPoolExecutor) -> None:
        service = Service(behaviour, threads)
        self._calls = InProcessServer(service, 100)
        self._calls.add_generic_rpc_handlers([service])
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def begin(self, method: str = METHOD, seconds: float = SECONDS) -> InProcessCall:
        metadata = (("authorization", "Bearer x"),)
        return self._calls.begin(method, b"asked", metadata, "192.0.2.7", seconds, self._outcomes.put)

    def outcome(self) -> Outcome:
        return self._outcomes.get(timeout=SECONDS)

    @property
    def more_outcomes(self) -> bool:
        return not self._outcomes.empty()


def test_a_handler_sees_the_call_and_answers_it(threads: ThreadPoolExecutor) -> None:
    def answer(message: bytes, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata((("behind", "it"),))
        return message, context.invocation_metadata(), context.peer(), noted.get(), context.is_active()

    calls = Calls(answer, threads)
    for _ in range(2):  # Each in a context of its own.
        calls.begin()
        code, answered, behind = calls.outcome()
        assert (code, behind) == (grpc.StatusCode.OK, (("behind", "it"),))
        assert answered == (b"asked", (("authorization", "Bearer x"),), "http:192.0.2.7:", "by the interceptor", True)
    assert noted.get() == ""


def test_a_handler_ends_it_with_a_status(threads: ThreadPoolExecutor) -> None:
    status = status_pb2.Status(code=code_pb2.NOT_FOUND, message="there is none")

    def abort(_: bytes, context: grpc.ServicerContext) -> None:
        context.abort_with_status(rpc_status.to_status(status))

    calls = Calls(abort, threads)
    calls.begin()
    code, answered, [(key, value)] = calls.outcome()
    assert (code, answered, key) == (grpc.StatusCode.NOT_FOUND, None, "grpc-status-details-bin")
    assert status_pb2.Status.FromString(value) == status


def test_what_a_handler_raises_is_logged_and_not_told(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: bytes, __: grpc.ServicerContext) -> None:
        raise ValueError("a secret")

    calls = Calls(fail, threads)
    calls.begin()
    assert calls.outcome() == Outcome(grpc.StatusCode.UNKNOWN)
    assert "a secret" in caplog.text


def test_a_method_that_is_not_served(threads: ThreadPoolExecutor) -> None:
    calls = Calls(lambda message, _: message, threads)
    calls.begin("/some.Service/Else")
    assert calls.outcome() == Outcome(grpc.StatusCode.UNIMPLEMENTED)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (InProcessCall.cancel, grpc.StatusCode.CANCELLED),
        (lambda call: call.end(grpc.StatusCode.DEADLINE_EXCEEDED), grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_it_ends_once_whatever_its_handler_does_then(
    threads: ThreadPoolExecutor, end: Callable[[InProcessCall], object], code: grpc.StatusCode
) -> None:
    has_begun, has_ended = threading.Event(), threading.Event()
    seen: list[Any] = []

    def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append(context.add_callback(has_ended.set))
        has_begun.set()
        assert has_ended.wait(SECONDS)
        seen.extend((context.is_active(), context.add_callback(has_begun.clear)))
        return message

    calls = Calls(answer, threads)
    call = calls.begin()
    assert has_begun.wait(SECONDS)
    end(call)
    assert calls.outcome() == Outcome(code)
    end(call)
    threads.shutdown()
    assert (seen, calls.more_outcomes, has_begun.is_set()) == ([True, False, False], False, True)


def test_the_time_that_is_left_for_it(threads: ThreadPoolExecutor) -> None:
    calls = Calls(lambda _, context: context.time_remaining(), threads)
    calls.begin(seconds=SECONDS)
    assert 0 < calls.outcome().answer <= SECONDS
    calls.begin(seconds=0)
    assert calls.outcome().answer == 0


def test_what_fails_at_its_end_keeps_nothing_else_from_being_done(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()

    def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
        context.add_callback(done.set)
        return message

    calls = Calls(answer, threads)
    calls.begin()
    assert calls.outcome().answer == b"asked"
    assert done.is_set()
    assert "ZeroDivisionError" in caplog.text
