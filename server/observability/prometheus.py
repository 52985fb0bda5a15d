"""Numbers for Prometheus: calls, errors, promotions, webhooks, the database and its standby, keys, lost log lines.

A call only leaves a note of itself, which costs it less than a counter of the library does; `sample` counts the notes a
few times a second and before each answer, and shares the numbers with the other processes of the server.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import TypeVar

import grpc
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from server.core.logs import dropped_lines
from server.observability.shared_numbers import Numbers, Slot
from server.rpc.telemetry import CallObserver, CallRecord
from server.storage.contract import ConnectionUse

# From a cached read to a batch on a slow disk.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BUCKETS = (*map(str, SECONDS), "+Inf")

_METHOD = ("grpc_service", "grpc_method")
_COUNTERS = {
    "grpc_server_handled": ("Calls that ended.", (*_METHOD, "grpc_code")),
    "modelregistry_errors": ("Calls that failed.", ("name",)),
    "modelregistry_promotions": ("Promotions that were committed.", ("kind",)),
    "modelregistry_webhook_attempts": ("Attempts to deliver an event to a webhook.", ("outcome",)),
    "modelregistry_standby_reads": ("Reads that a standby may answer.", ("answered_by",)),
    "modelregistry_log_lines_dropped": ("Lines of the log that were dropped, as their reader had stalled.", ()),
}
_HISTOGRAM = "grpc_server_handling_seconds"
_NANOSECONDS = f"{_HISTOGRAM}_sum"  # Whole ones, so that no sum loses what is small.
# Of each process, by its number, when it loaded the issuer's keys, by the clock that all processes of a machine share.
_KEYS_LOADED = "modelregistry_jwks_loaded_milliseconds"
# And when the standby that it reads from was as far as the primary.
_STANDBY_SEEN = "modelregistry_standby_seen_milliseconds"
# What is told of such a time: how long ago it was, in the process where that is longest.
_AGES = {
    _KEYS_LOADED: ("modelregistry_jwks_age_seconds", "How long ago the keys that verify tokens were loaded"),
    _STANDBY_SEEN: ("modelregistry_standby_age_seconds", "How long ago the standby was as far as the primary"),
}
# True only while their process lives, as that is.
_GAUGES = {
    "grpc_server_in_flight": ("Calls that run.", _METHOD),
    "modelregistry_database_connections": ("Connections to the database.", ("state",)),
    "modelregistry_database_connections_limit": ("How many connections to the database there may be.", ()),
}

T = TypeVar("T")

log = logging.getLogger(__name__)


class Prometheus(Collector):
    """Counts for a process; with a folder, together with the other processes that have the same.

    `kinds` are those of promotions. Raises OSError if the folder cannot be written.
    """

    def __init__(self, kinds: Iterable[str], folder: Path | None = None):
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._calls: list[_Calls] = []
        self._promoted: deque[str] = deque()
        self._tried: deque[str] = deque()
        self._standby_reads: deque[str] = deque()
        self._use: ConnectionUse | None = None
        # For the numbers; what is noted meanwhile waits in the queues.
        self._counting = Lock()
        self._slot = Slot(folder) if folder is not None else None
        self._is_shared = True
        found = self._slot.read() if self._slot is not None else {}
        self._numbers: Numbers = {name: found.get(name, Counter()) for name in (*_COUNTERS, _HISTOGRAM, _NANOSECONDS)}
        self._times: dict[str, float | None] = {}
        # By the processes that had this slot before.
        self._dropped_before = self._numbers["modelregistry_log_lines_dropped"][()]
        for kind in kinds:
            self._numbers["modelregistry_promotions"][kind,] += 0
        for outcome in ("delivered", "failed"):
            self._numbers["modelregistry_webhook_attempts"][outcome,] += 0
        self._snapshot: Numbers = {}
        self.count()

    def observer_of(self, method: str) -> CallObserver:
        """Return what counts the calls of a method."""
        service, _, name = method.removeprefix("/").partition("/")
        calls = _Calls((service, name))
        self._calls.append(calls)
        running, ended = calls.running, calls.ended

        def begin(record: CallRecord, context: grpc.ServicerContext) -> Callable[[CallRecord], None]:
            running.add(record)
            return end

        def end(record: CallRecord) -> None:
            running.discard(record)
            ended.append((record.code, record.error.name if record.error is not None else None, record.seconds))

        return begin

    def promoted(self, kind: str) -> None:
        """Count a promotion."""
        self._promoted.append(kind)

    def tried(self, outcome: str) -> None:
        """Count an attempt to deliver."""
        self._tried.append(outcome)

    def standby_read(self, by: str) -> None:
        """Count a read that a standby may answer."""
        self._standby_reads.append(by)

    def sample(
        self, use: ConnectionUse, keys_loaded_at: float | None = None, standby_seen_at: float | None = None
    ) -> None:
        """Bring the numbers up to date, with how many connections there are, and what Observers.start is told."""
        self._use = use
        self._times = {_KEYS_LOADED: keys_loaded_at, _STANDBY_SEEN: standby_seen_at}
        self.count()

    def count(self) -> None:
        """Bring the numbers up to date, and share them."""
        with self._counting:
            for calls in tuple(self._calls):
                calls.count(self._numbers)
            for kind in _drained(self._promoted):
                self._numbers["modelregistry_promotions"][kind,] += 1
            for outcome in _drained(self._tried):
                self._numbers["modelregistry_webhook_attempts"][outcome,] += 1
            for by in _drained(self._standby_reads):
                self._numbers["modelregistry_standby_reads"][by,] += 1
            self._numbers["modelregistry_log_lines_dropped"][()] = self._dropped_before + dropped_lines()
            snapshot = {name: counted.copy() for name, counted in self._numbers.items()} | self._gauges()
            if snapshot != self._snapshot:
                self._snapshot = snapshot
                if self._slot is not None:
                    self._share(self._slot)

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers of all processes, those of this one as they were shared: a later kill takes none back."""
        total = {name: counted.copy() for name, counted in self._snapshot.items()}
        for numbers, lives in self._slot.read_others() if self._slot is not None else ():
            for name, counted in numbers.items():
                if lives or name not in (*_GAUGES, *_AGES):
                    total.setdefault(name, Counter()).update(counted)
        for name, (text, labels) in _COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=labels)
            for values, value in sorted(total[name].items()):
                counter.add_metric(values, value)
            yield counter
        histogram = HistogramMetricFamily(_HISTOGRAM, "How long calls took.", labels=_METHOD)
        for values, nanoseconds in sorted(total[_NANOSECONDS].items()):
            cumulated = itertools.accumulate(total[_HISTOGRAM][*values, bucket] for bucket in _BUCKETS)
            histogram.add_metric(values, list(zip(_BUCKETS, cumulated, strict=True)), nanoseconds / 1e9)
        yield histogram
        for name, (text, labels) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for values, value in sorted(total[name].items()):
                gauge.add_metric(values, value)
            yield gauge
        for name, (age_name, text) in _AGES.items():
            if times := total[name]:
                age = time.monotonic() - min(times.values()) / 1000
                yield GaugeMetricFamily(age_name, f"{text}, in the process where that is longest.", value=age)

    def _gauges(self) -> Numbers:
        gauges: Numbers = {name: Counter() for name in (*_GAUGES, *_AGES)}
        for calls in tuple(self._calls):
            gauges["grpc_server_in_flight"][calls.method] = len(calls.running)
        if self._use is not None:
            gauges["modelregistry_database_connections"]["in_use",] = self._use.in_use
            gauges["modelregistry_database_connections"]["idle",] = self._use.idle
            gauges["modelregistry_database_connections_limit"][()] = self._use.limit
        for name, at in self._times.items():
            if at is not None:
                gauges[name][str(os.getpid()),] = int(at * 1000)
        return gauges

    def _share(self, slot: Slot) -> None:
        try:
            slot.write(self._snapshot)
            self._is_shared = True
        except OSError as error:
            if self._is_shared:  # Once, and not at each try.
                log.warning("the metrics of this worker cannot be shared with the others: %s", error)
            self._is_shared = False


class _Calls:
    """The calls of one method: those that run, and those that ended and are not counted yet."""

    def __init__(self, method: tuple[str, str]):
        self.method = method
        self.running: set[CallRecord] = set()
        # Of each its code, the name of its error if it has one, and its seconds.
        self.ended: deque[tuple[str, str | None, float]] = deque()

    def count(self, numbers: Numbers) -> None:
        numbers["grpc_server_handled"][*self.method, "OK"] += 0
        numbers[_NANOSECONDS][self.method] += 0
        for code, error, seconds in _drained(self.ended):
            numbers["grpc_server_handled"][*self.method, code] += 1
            numbers[_HISTOGRAM][*self.method, _BUCKETS[bisect_left(SECONDS, seconds)]] += 1
            numbers[_NANOSECONDS][self.method] += round(seconds * 1e9)
            if error is not None:
                numbers["modelregistry_errors"][error,] += 1


def _drained(noted: deque[T]) -> Iterator[T]:
    """Take what was noted up to now."""
    for _ in range(len(noted)):
        yield noted.popleft()
