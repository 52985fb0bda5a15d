"""The record of each call: one log line that tells which RPC, how it ended, how long it took and the caller.

Health and reflection that went well have none.

Metrics and traces observe the same records.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeAlias

import grpc

from server.core.caller import Caller
from server.core.errors import RegistryError
from server.core.logs import request_id_of
from server.core.observers import unfailing, warn
from server.rpc.status import grpc_code, message_of

# A deadline travels as the time that is left, rounded up; so here it is later by that, and by the time on the way.
DEADLINE_SLACK_SECONDS = 0.1
DEADLINE_SLACK = 0.02

# Of W3C's Trace Context. Later versions may have more at the end, the first one has not; and ids are not zero.
_TRACE_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-.*)?"
)

# When the headers of a call came, in its own context.
_arrival: ContextVar[float | None] = ContextVar("arrival", default=None)

log = logging.getLogger("modelregistry.calls")


def note_arrival() -> None:
    """Note that the headers of a call are here: what it waits for from now on is part of the time that it takes."""
    _arrival.set(time.perf_counter())


class CallRecord:
    """What is known of a call, filled in on its way through the layers."""

    __slots__ = (
        "_ends",
        "caller",
        "cancelled",
        "code",
        "error",
        "method",
        "request_id",
        "seconds",
        "start",
        "trace_id",
    )

    def __init__(self, method: str, context: grpc.ServicerContext, observers: Sequence[CallObserver] = ()):
        self.method = method
        self.start = _arrival.get() or time.perf_counter()
        self.caller: Caller | None = None
        self.error: RegistryError | None = None
        # By the client, its deadline, or a bound of ours: the client was not told the outcome.
        self.cancelled = False
        # Of the trace that the call is part of, if the caller names one or tracing begins one.
        self.trace_id: str | None = None
        metadata = context.invocation_metadata()
        self.request_id = request_id_of(str(value) for key, value in metadata if key == "x-request-id")
        for key, value in metadata:
            if key == "traceparent":
                self.trace_id = _trace_id(str(value))
        self._ends = [end for observer in observers if (end := observer(self, context)) is not None]

    def end(self, context: grpc.ServicerContext, is_probe: bool) -> None:
        """Log the call, which has ended; a probe that went well is not worth a line. Raises nothing.

        The answer is made already, and is not sent yet: what raised here would take its place.
        """
        try:
            self._end(context, is_probe)
        except Exception:
            warn()
        # It holds the frames that it was raised through, these hold the record, and both would wait for the garbage
        # collector, with all that gRPC keeps for a call.
        error, self.error = self.error, None
        if error is not None:
            error.__traceback__ = error.__context__ = error.__cause__ = None

    def _end(self, context: grpc.ServicerContext, is_probe: bool) -> None:
        self.seconds = time.perf_counter() - self.start
        self.cancelled = self.cancelled or (self.error is None and not context.is_active())
        if self.cancelled:
            self.code = _code_of_cancelled(context, self.seconds)
        else:
            self.code = grpc_code(self.error) if self.error is not None else "OK"
        for end in self._ends:
            end(self)
        if self.error is not None or not is_probe:
            self._log()

    def _log(self) -> None:
        fields: dict[str, object] = {
            "method": self.method,
            "code": self.code,
            "milliseconds": round(self.seconds * 1000, 1),
            "user": self.caller.user if self.caller else None,
            "request_id": self.request_id,
            "trace_id": self.trace_id,
        }
        if self.error:
            fields |= {"error_instance_id": self.error.instance_id, "error": message_of(self.error)}
        # As `Logger.info` does, but for the search of the caller's file and line, which take half of its time.
        if log.isEnabledFor(logging.INFO):
            line = logging.LogRecord(log.name, logging.INFO, "", 0, "call", (), None)
            line.fields = fields
            log.handle(line)


CallEnd: TypeAlias = Callable[[CallRecord], None]
# Sees a call begin, and returns what sees it end. One for each method, made before its first call.
CallObserver: TypeAlias = Callable[[CallRecord, grpc.ServicerContext], CallEnd | None]
# Returns the observer of a method, which is given as `/package.Service/Method`; None if its calls are not worth it.
ObserverOf: TypeAlias = Callable[[str], CallObserver | None]


def observers_for(method: str, observers_of: Iterable[ObserverOf]) -> Iterator[CallObserver]:
    """Return what observes the calls of a method."""
    for observer_of in observers_of:
        try:
            observer = observer_of(method)
        except Exception:
            warn()
        else:
            if observer is not None:
                yield unfailing(observer)


def _code_of_cancelled(context: grpc.ServicerContext, seconds: float) -> str:
    """Return the name of the code that the client was told of a call that was given up after so many seconds."""
    left = context.time_remaining()
    # A client whose time is up cancels the call, and that often is here before the time is up for us.
    is_up = left is not None and left <= DEADLINE_SLACK_SECONDS + DEADLINE_SLACK * seconds
    return "DEADLINE_EXCEEDED" if is_up else "CANCELLED"


def _trace_id(trace_parent: str) -> str | None:
    """Return the trace that a caller names; None for what is no `traceparent`."""
    match = _TRACE_PARENT.fullmatch(trace_parent)
    if match is None or (match["version"] == "00" and match["more"] is not None):
        return None
    return match["trace_id"]
