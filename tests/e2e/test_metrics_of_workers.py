"""Two workers behind one address for Prometheus: whichever answers tells of both, and of those that are dead."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.e2e.test_metrics import METRICS_ON, scrape, value
from tests.e2e.test_workers import HEALTH, workers_of
from tests.processes import DEADLINE_SECONDS, Server, states, until

CONNECTIONS = 24
WATCH = "/grpc.health.v1.Health/Watch"


class Workers:
    """A server with two workers, and connections that are spread over both."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.url = server.line(METRICS_ON)
        self.folder = folder
        own = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.insecure_channel(server.address, own) for _ in range(CONNECTIONS)]

    def probe(self) -> None:
        """Call once over each connection."""
        for channel in self.channels:
            channel.unary_unary(HEALTH)(b"", timeout=DEADLINE_SECONDS, wait_for_ready=True)

    def probes(self) -> float:
        """How many calls there were, as the server says."""
        return value(scrape(self.url), "grpc_server_handled_total", grpc_method="Check", grpc_code="OK")

    def in_flight(self) -> float:
        return value(scrape(self.url), "grpc_server_in_flight", grpc_method="Watch")

    def shares(self) -> list[float]:
        """How many calls each worker has had, as its own file says."""
        shared = [json.loads(file.read_text()) for file in self.folder.rglob("modelregistry-metrics-*/*.json")]
        return [sum(row[-1] for row in numbers["grpc_server_handled"]) for numbers in shared]


@contextmanager
def two_workers(tmp_path: Path) -> Iterator[Workers]:
    # Of a short name, since the paths of sockets are bounded.
    with tempfile.TemporaryDirectory() as folder:
        options = {"MODELREGISTRY_METRICS_LISTEN": "127.0.0.1:0", "TMPDIR": folder}
        with Server(tmp_path / "server", "--workers", "2", **options) as server:
            workers = Workers(server, Path(folder))
            yield workers
            for channel in workers.channels:
                channel.close()


def test_whichever_answers_tells_of_all(tmp_path: Path) -> None:
    with two_workers(tmp_path) as workers:
        for _ in range(3):
            workers.probe()

        until(lambda: workers.probes() == 3 * CONNECTIONS)
        assert sum(workers.shares()) == 3 * CONNECTIONS
        assert min(workers.shares()) > 0
        for stopped in workers_of(workers.server):
            # So that it is the other that answers.
            os.kill(stopped, signal.SIGSTOP)
            try:
                until(lambda stopped=stopped: states(stopped) == {"T"})
                assert workers.probes() == 3 * CONNECTIONS
            finally:
                os.kill(stopped, signal.SIGCONT)


def test_a_worker_that_is_killed_takes_along_what_it_did_and_not_what_it_had_done(tmp_path: Path) -> None:
    with two_workers(tmp_path) as workers:
        watches = [channel.unary_stream(WATCH)(b"", timeout=DEADLINE_SECONDS) for channel in workers.channels]
        assert all(next(watch) for watch in watches)
        until(lambda: workers.in_flight() == CONNECTIONS)
        workers.probe()
        until(lambda: workers.probes() == CONNECTIONS)
        killed = min(workers_of(workers.server))

        with falling(workers) as falls:
            os.kill(killed, signal.SIGKILL)
            until(lambda: workers.in_flight() < CONNECTIONS)
            until(lambda: len(workers_of(workers.server) - {killed}) == 2)
            until(lambda: workers.in_flight() == sum(watch.is_active() for watch in watches))
            workers.probe()

        assert falls == []
        assert 0 < workers.in_flight() < CONNECTIONS
        until(lambda: workers.probes() == 2 * CONNECTIONS)
        for watch in watches:
            watch.cancel()
        until(lambda: workers.in_flight() == 0)
        assert len(list(workers.folder.rglob("modelregistry-metrics-*/*.json"))) <= 3


@contextmanager
def falling(workers: Workers) -> Iterator[list[float]]:
    """Look at a counter all the time, and take down each value that is less than one before."""
    falls: list[float] = []
    enough = threading.Event()

    def look() -> None:
        highest = 0.0
        while not enough.is_set():
            try:
                seen = workers.probes()
            except OSError:  # The worker that was asked is the one that was killed.
                continue
            if seen < highest:
                falls.append(seen)
            highest = max(highest, seen)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield falls
    finally:
        enough.set()
        thread.join()


def test_workers_that_are_replaced_go_on_with_the_numbers(tmp_path: Path) -> None:
    with two_workers(tmp_path) as workers:
        workers.probe()
        for _ in range(3):
            before = workers_of(workers.server)
            workers.server.process.send_signal(signal.SIGHUP)
            until(
                lambda before=before: len(workers_of(workers.server)) == 2 and not workers_of(workers.server) & before
            )

        until(lambda: workers.probes() == CONNECTIONS)
        workers.probe()
        until(lambda: workers.probes() == 2 * CONNECTIONS)
        assert len(list(workers.folder.rglob("modelregistry-metrics-*/*.json"))) <= 3


def test_the_folder_of_the_numbers_is_removed_at_the_end(tmp_path: Path) -> None:
    with two_workers(tmp_path) as workers:
        workers.probe()
        assert list(workers.folder.glob("modelregistry-metrics-*"))
        workers.server.stop()
        assert list(workers.folder.iterdir()) == []


@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_limit_of_connections_is_that_of_all_workers(tmp_path: Path, workers: str) -> None:
    with Server(tmp_path / "server", "--workers", workers, MODELREGISTRY_METRICS_LISTEN="127.0.0.1:0") as server:
        url = server.line(METRICS_ON)
        until(lambda: value(scrape(url), "modelregistry_database_connections_limit") == 32 * int(workers))
