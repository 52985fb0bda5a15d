"""Metrics and traces, as the settings want; by default there are none, which costs nothing."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelregistry.v1.promotion_pb2 import PromotionKind
from server.core.config import METRICS, TRACES, ConfigError
from server.rpc.telemetry import ObserverOf
from server.storage.contract import ConnectionUse, StatementObserver

if TYPE_CHECKING:
    from server.observability.prometheus import Prometheus
    from server.observability.scrapes import MetricsServer

log = logging.getLogger(__name__)

# How long the last spans and numbers may take, at the end.
LAST_SECONDS = 1.5


class Observers:
    """What observes the calls, statements and promotions of one process.

    `listener` is where Prometheus asks for numbers, `folder` where the processes of one server keep theirs together,
    and `otlp` which of TRACES and METRICS go to a collector. Raises ConfigError for what is not installed.
    """

    def __init__(
        self,
        listener: socket.socket | None = None,
        folder: Path | None = None,
        otlp: frozenset[str] = frozenset(),
    ):
        self._listener = listener
        self._prometheus = _prometheus(folder) if listener is not None else None
        self._otlp = _Otlp(otlp) if otlp else None
        self._server: MetricsServer | None = None

    @property
    def of_calls(self) -> Sequence[ObserverOf]:
        """What observes calls; tracing comes first, so that the others run within its span."""
        tracing = self._otlp.tracing if self._otlp else None
        return [each.observer_of for each in (tracing, *self._counting) if each is not None]

    def statements_of(self, system: str) -> StatementObserver | None:
        """Return what observes the statements for a kind of database, if anything does."""
        return self._otlp.tracing.statements_of(system) if self._otlp and self._otlp.tracing else None

    @property
    def promoted(self) -> Callable[[PromotionKind.ValueType], None] | None:
        """What counts each promotion, if anything does."""
        if not (counting := self._counting):
            return None

        def promoted(kind: PromotionKind.ValueType) -> None:
            for each in counting:
                each.promoted(name_of(kind))

        return promoted

    def tried(self, is_success: bool) -> None:
        """Count an attempt to deliver an event to a webhook."""
        for each in self._counting:
            each.tried("delivered" if is_success else "failed")

    @property
    def standby_read(self) -> Callable[[bool], None] | None:
        """What counts each read that a standby may answer, and is told whether it did, if anything does."""
        if not (counting := self._counting):
            return None

        def standby_read(by_standby: bool) -> None:
            for each in counting:
                each.standby_read("standby" if by_standby else "primary")

        return standby_read

    def start(
        self,
        connections: Callable[[], ConnectionUse],
        keys_loaded_at: Callable[[], float],
        standby_seen_at: Callable[[], float | None],
    ) -> None:
        """Begin to report, until `close`.

        `connections` is asked how they are used, and the others, by `time.monotonic`, when the keys that verify tokens
        were loaded, and when a standby was as far as its primary; None without one.
        """
        if self._otlp and self._otlp.metrics:
            self._otlp.metrics.observe(connections, keys_loaded_at, standby_seen_at)
        if self._prometheus is not None and self._listener is not None:
            from server.observability.scrapes import MetricsServer

            prometheus = self._prometheus
            self._server = MetricsServer(
                self._listener,
                prometheus.registry,
                lambda: prometheus.sample(connections(), keys_loaded_at(), standby_seen_at()),
            )
            self._server.start()

    def close(self) -> None:
        """Send what has not been sent yet, in LAST_SECONDS."""
        if self._server is not None:
            self._server.stop()
        if self._otlp is not None:
            self._otlp.close()

    @property
    def _counting(self) -> list[Any]:
        return [each for each in (self._prometheus, self._otlp and self._otlp.metrics) if each is not None]


def name_of(kind: PromotionKind.ValueType) -> str:
    """Return a kind of promotions in small letters: `rollback`."""
    return PromotionKind.Name(kind).removeprefix("PROMOTION_KIND_").lower()


def _prometheus(folder: Path | None) -> Prometheus:
    # Without metrics, the library is not loaded.
    from server.observability.prometheus import Prometheus

    kinds = [name_of(kind) for kind in PromotionKind.values() if kind]
    try:
        return Prometheus(kinds, folder)
    except OSError as error:
        log.warning("the metrics of this worker are its own alone, since it cannot count with the others: %s", error)
        return Prometheus(kinds)


class _Otlp:
    """What is sent to a collector."""

    def __init__(self, signals: frozenset[str]):
        try:
            from server.observability import otlp, tracing
        except ImportError as error:
            raise ConfigError(
                "OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed:"
                " pip install 'modelregistry[otel]'"
            ) from error
        resource = otlp.resource()
        spans = otlp.tracer_provider(resource) if TRACES in signals else None
        numbers = otlp.meter_provider(resource) if METRICS in signals else None
        self.tracing = tracing.Tracing(spans) if spans else None
        self.metrics = otlp.OtlpMetrics(numbers.get_meter("modelregistry")) if numbers else None
        self._providers = [each for each in (spans, numbers) if each is not None]

    def close(self) -> None:
        """Send what is left, in LAST_SECONDS: a collector that does not answer must not keep the server."""
        threads = [threading.Thread(target=provider.shutdown, daemon=True) for provider in self._providers]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + LAST_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
