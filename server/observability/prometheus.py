"""Numbers for Prometheus: calls, errors, promotions, connections to the database.

Who uses this brings the numbers up to date now and then, and before they are read. The processes of one server count
together in a folder: each in files of its own, which whichever of them is asked adds up.
"""

from __future__ import annotations

import collections
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from server.observability.together import Place, files
from server.rpc.telemetry import CallRecord, Watch
from server.storage.contract import ConnectionUse

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
        self._calls: list[_Calls] = []
        self._counting = Lock()
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
        seconds = self._seconds.labels(service, name)
        went_well = self._handled.labels(service, name, "OK")
        calls = _Calls(self._in_flight.labels(service, name), went_well, seconds)
        running, ended = calls.running, calls.ended
        self._calls.append(calls)

        def begin(record: CallRecord, context: grpc.ServicerContext) -> Callable[[CallRecord], None]:
            running.add(record)
            return end

        def end(record: CallRecord) -> None:
            running.discard(record)
            if record.code == "OK":
                ended.append(record.seconds)
                return
            seconds.observe(record.seconds)
            self._handled.labels(service, name, record.code).inc()
            if record.error is not None:
                self._errors.labels(record.error.name).inc()

        return begin

    def promoted(self, kind: str) -> None:
        """Count a promotion."""
        self._promotions.labels(kind).inc()

    def sample(self, use: ConnectionUse) -> None:
        """Bring the numbers up to date, with how many connections there are."""
        self.count()
        self._in_use.set(use.in_use)
        self._idle.set(use.idle)
        self._limit.set(use.limit)

    def count(self) -> None:
        """Bring the numbers of calls up to date."""
        with self._counting:
            for calls in tuple(self._calls):
                calls.count()


class _Calls:
    """The calls of one method that are not counted yet, and how to count them.

    To count a call takes longer than most of the layers around it, so all that it does by itself is to come and go;
    they are counted together, some times a second.
    """

    def __init__(self, in_flight: Gauge, went_well: Counter, seconds: Histogram):
        self.running: set[CallRecord] = set()
        # How long those took that went well.
        self.ended: deque[float] = deque()
        self._in_flight = in_flight
        self._went_well = went_well
        self._seconds = seconds

    def count(self) -> None:
        self._in_flight.set(len(self.running))
        ended = [self.ended.popleft() for _ in range(len(self.ended))]
        if not ended:
            return
        self._went_well.inc(len(ended))
        # The library has no other way to observe many at once than what its own `observe` does with one.
        self._seconds._sum.inc(sum(ended))
        for bucket, many in collections.Counter(bisect_left(SECONDS, each) for each in ended).items():
            self._seconds._buckets[bucket].inc(many)


class _Together(Collector):
    """What all processes have counted in a folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Return the sums."""
        found: Iterable[Metric] = MultiProcessCollector.merge(files(self._folder))
        return found
