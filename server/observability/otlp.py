"""What goes to an OpenTelemetry collector, over OTLP: the calls' spans, and the numbers that Prometheus would ask for.

OpenTelemetry's SDK reads its own variables, whatever its specification has: where the collector is, its headers and
certificates, how often to send, what to sample, what this service is called. Ours are only the decision whether to send
at all, which `server.cli.options` makes, and the defaults.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

import grpc
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from server.core.logs import dropped_lines
from server.observability.prometheus import SECONDS
from server.rpc.telemetry import CallObserver, CallRecord
from server.storage.contract import ConnectionUse


class OtlpMetrics:
    """Counts for a process. A collector tells processes apart by `service.instance.id`, and adds them up."""

    def __init__(self, meter: Meter):
        self._seconds = meter.create_histogram(
            "rpc.server.call.duration", "s", "How long calls took.", explicit_bucket_boundaries_advisory=SECONDS
        )
        self._in_flight = meter.create_up_down_counter("modelregistry.calls.in_flight", "{call}", "Calls that run.")
        self._promotions = meter.create_counter(
            "modelregistry.promotions", "{promotion}", "Promotions that were committed."
        )
        self._attempts = meter.create_counter(
            "modelregistry.webhook.attempts", "{attempt}", "Attempts to deliver an event to a webhook."
        )
        self._standby_reads = meter.create_counter(
            "modelregistry.standby.reads", "{read}", "Reads that a standby may answer."
        )
        self._use: Callable[[], ConnectionUse] | None = None
        self._keys_loaded_at: Callable[[], float] | None = None
        self._standby_seen_at: Callable[[], float | None] | None = None
        meter.create_observable_up_down_counter(
            "db.client.connection.count", [self._connections], "{connection}", "Connections to the database."
        )
        meter.create_observable_up_down_counter(
            "db.client.connection.max", [self._limit], "{connection}", "How many connections there may be."
        )
        meter.create_observable_gauge(
            "modelregistry.jwks.age", [self._age_of_keys], "s", "How long ago the keys of the issuer were loaded."
        )
        meter.create_observable_gauge(
            "modelregistry.standby.age",
            [self._age_of_standby],
            "s",
            "How long ago the standby was as far as the primary.",
        )
        meter.create_observable_counter(
            "modelregistry.log.lines_dropped", [_dropped_lines], "{line}", "Lines of the log that were dropped."
        )

    def observer_of(self, method: str) -> CallObserver:
        """Return what counts the calls of a method."""
        same = {"rpc.system.name": "grpc", "rpc.method": method.removeprefix("/")}
        went_well = {**same, "rpc.response.status_code": "OK"}

        def begin(record: CallRecord, context: grpc.ServicerContext) -> Callable[[CallRecord], None]:
            self._in_flight.add(1, same)
            return end

        def end(record: CallRecord) -> None:
            self._in_flight.add(-1, same)
            if record.code == "OK":
                self._seconds.record(record.seconds, went_well)
                return
            error = record.error.name if record.error is not None else record.code
            attributes = {**same, "rpc.response.status_code": record.code, "error.type": error}
            self._seconds.record(record.seconds, attributes)

        return begin

    def promoted(self, kind: str) -> None:
        """Count a promotion."""
        self._promotions.add(1, {"kind": kind})

    def tried(self, outcome: str) -> None:
        """Count an attempt to deliver."""
        self._attempts.add(1, {"outcome": outcome})

    def standby_read(self, by: str) -> None:
        """Count a read that a standby may answer."""
        self._standby_reads.add(1, {"answered_by": by})

    def observe(
        self,
        use: Callable[[], ConnectionUse],
        keys_loaded_at: Callable[[], float],
        standby_seen_at: Callable[[], float | None],
    ) -> None:
        """Report from now on what Observers.start is told."""
        self._use = use
        self._keys_loaded_at = keys_loaded_at
        self._standby_seen_at = standby_seen_at

    def _connections(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._use is not None:
            use = self._use()
            yield Observation(use.in_use, {"db.client.connection.state": "used"})
            yield Observation(use.idle, {"db.client.connection.state": "idle"})

    def _limit(self, _: CallbackOptions) -> Iterator[Observation]:
        if self._use is not None:
            yield Observation(self._use().limit)

    def _age_of_keys(self, _: CallbackOptions) -> Iterator[Observation]:
        if self._keys_loaded_at is not None:
            yield Observation(time.monotonic() - self._keys_loaded_at())

    def _age_of_standby(self, _: CallbackOptions) -> Iterator[Observation]:
        if self._standby_seen_at is not None and (seen_at := self._standby_seen_at()) is not None:
            yield Observation(time.monotonic() - seen_at)


def _dropped_lines(_: CallbackOptions) -> Iterator[Observation]:
    yield Observation(dropped_lines())


def tracer_provider(resource: Resource) -> TracerProvider:
    """Return what sends spans, from a thread of its own."""
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def meter_provider(resource: Resource) -> MeterProvider:
    """Return what sends metrics, from a thread of its own."""
    return MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource, shutdown_on_exit=False)


def resource() -> Resource:
    """Return what this process is called, unless its environment says otherwise."""
    ours = {
        "service.name": "modelregistry",
        "service.version": version("modelregistry"),
        "service.instance.id": str(uuid.uuid4()),
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())
