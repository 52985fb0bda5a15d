"""Numbers for Prometheus: calls, errors, promotions, connections to the database.

What a call touches is made once for each method, since to look it up would take longer than to count. The processes of
one server count together in a folder: each in files of its own, which whichever of them is asked adds up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from server.observability.together import Place, files
from server.rpc.interceptors.telemetry import CallRecord, Watch
from server.storage.repository import ConnectionUse

# From a cached read to a batch on a slow disk.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Prometheus:
    """Counts for a server; with a folder, together with the other processes that have the same.

    `kinds` are those of promotions.
    """

    def __init__(self, kinds: Iterable[str], folder: Path | None = None):
        # When each counter was made is of no use here, and would double what is served.
        disable_created_metrics()
        self.registry = CollectorRegistry()
        if folder is not None:
            self._place = Place(folder)
            # Which the library reads when a number is made, and so are all that are made from here on.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
            values.ValueClass = values.MultiProcessValue(lambda: self._place.number)
            self.registry.register(_Together(folder))
        # In files, they are read from there.
        own = self.registry if folder is None else None
        method = ("grpc_service", "grpc_method")
        self._handled = Counter("grpc_server_handled_total", "Calls that ended.", (*method, "grpc_code"), registry=own)
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "How long calls took.", method, registry=own, buckets=SECONDS
        )
        self._in_flight = Gauge(
            "grpc_server_in_flight", "Calls that run.", method, registry=own, multiprocess_mode="livesum"
        )
        self._errors = Counter("modelregistry_errors_total", "Calls that failed.", ("name",), registry=own)
        self._promotions = Counter(
            "modelregistry_promotions_total", "Promotions that were committed.", ("kind",), registry=own
        )
        self._running: list[tuple[Gauge, set[CallRecord]]] = []
        connections = Gauge(
            "modelregistry_database_connections",
            "Connections to the database.",
            ("state",),
            registry=own,
            multiprocess_mode="livesum",
        )
        self._in_use, self._idle = connections.labels("in_use"), connections.labels("idle")
        self._limit = Gauge(
            "modelregistry_database_connections_limit",
            "How many connections to the database there may be.",
            registry=own,
            multiprocess_mode="livesum",
        )
        for kind in kinds:
            self._promotions.labels(kind)

    def watch_of(self, method: str) -> Watch:
        """Return what counts the calls of a method."""
        service, _, name = method.removeprefix("/").partition("/")
        running: set[CallRecord] = set()
        self._running.append((self._in_flight.labels(service, name), running))
        seconds = self._seconds.labels(service, name)
        went_well = self._handled.labels(service, name, "OK")

        def begin(record: CallRecord, context: grpc.ServicerContext) -> Callable[[CallRecord], None]:
            # A gauge would take longer, twice for each call; `sample` sets it.
            running.add(record)
            return end

        def end(record: CallRecord) -> None:
            running.discard(record)
            seconds.observe(record.seconds)
            if record.code == "OK":
                went_well.inc()
                return
            self._handled.labels(service, name, record.code).inc()
            if record.error is not None:
                self._errors.labels(record.error.name).inc()

        return begin

    def promoted(self, kind: str) -> None:
        """Count a promotion."""
        self._promotions.labels(kind).inc()

    def sample(self, use: ConnectionUse) -> None:
        """Take down how many calls run, and how many connections there are."""
        for in_flight, running in tuple(self._running):
            in_flight.set(len(running))
        self._in_use.set(use.in_use)
        self._idle.set(use.idle)
        self._limit.set(use.limit)


class _Together(Collector):
    """What all processes have counted in a folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Return the sums."""
        found: Iterable[Metric] = MultiProcessCollector.merge(files(self._folder))
        return found
