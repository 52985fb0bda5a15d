"""Traces: a span for each call, below that of its caller, and below it one for each SQL statement.

The names of attributes are OpenTelemetry's semantic conventions. What a caller sends is in none, nor what is stored.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc
from opentelemetry.context import Context, attach
from opentelemetry.trace import (
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.core.permissions import is_open
from server.rpc.telemetry import CallObserver, CallRecord
from server.storage.contract import StatementObserver

_W3C = frozenset({"traceparent", "tracestate"})
# What is wrong on our side, as OpenTelemetry says; the others are the caller's.
_OUR_FAULT = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Tracing:
    """Makes spans of calls and of statements."""

    def __init__(self, provider: TracerProvider):
        self._tracer = provider.get_tracer("modelregistry")
        self._propagator = TraceContextTextMapPropagator()

    def observer_of(self, method: str) -> CallObserver | None:
        """Return the observer that makes a span of each call of a method; None for probes, which come too often."""
        if is_open(method):
            return None
        name = method.removeprefix("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}

        def begin(record: CallRecord, context: grpc.ServicerContext) -> Callable[[CallRecord], None]:
            sent = {key: str(value) for key, value in context.invocation_metadata() if key in _W3C}
            parent = self._propagator.extract(sent, Context())
            span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
            record.trace_id = format_trace_id(span.get_span_context().trace_id)
            # Each call runs in a context of its own, so this ends with it.
            attach(set_span_in_context(span))

            def end(record: CallRecord) -> None:
                span.set_attribute("rpc.response.status_code", record.code)
                if record.error is not None:
                    span.set_attribute("error.type", record.error.name)
                    span.set_attribute("modelregistry.error_instance_id", record.error.instance_id)
                if record.code in _OUR_FAULT:
                    span.set_status(Status(StatusCode.ERROR))
                span.end()

            return end

        return begin

    def statements_of(self, system: str) -> StatementObserver:
        """Return the observer that makes a span of each SQL statement of a call, for a kind of database."""

        def begin(statement: str) -> Callable[[BaseException | None], None] | None:
            if not get_current_span().is_recording():
                return None
            operation = statement.split(None, 1)[0].upper()
            attributes = {"db.system.name": system, "db.operation.name": operation, "db.query.text": statement}
            span = self._tracer.start_span(operation, None, SpanKind.CLIENT, attributes)

            def end(error: BaseException | None) -> None:
                if error is not None:
                    # Its text would tell values.
                    span.set_attribute("error.type", type(error).__name__)
                    span.set_status(Status(StatusCode.ERROR))
                span.end()

            return end

        return begin
