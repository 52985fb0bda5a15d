"""Worker processes behind one port: one that dies is missed by nobody for long, and none outlives its supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from tests.processes import DEADLINE_SECONDS, Server, failure, run, until

HEALTH = "/grpc.health.v1.Health/Check"


def workers_of(server: Server) -> set[int]:
    """The processes that serve calls, by id."""
    return {worker.pid for worker in server.workers()}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def answers(address: str) -> bool:
    """Whether a new connection gets an answer."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            return bool(channel.unary_unary(HEALTH)(b"", timeout=DEADLINE_SECONDS))
        except grpc.RpcError:
            return False


def test_connections_are_shared_out_between_the_workers(tmp_path: Path) -> None:
    with Server(tmp_path / "server", "--workers", "2") as server:
        workers = workers_of(server)
        assert len(workers) == 2
        channels = [grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(32)]
        for channel in channels:
            channel.unary_unary(HEALTH)(b"", timeout=DEADLINE_SECONDS)
        # The sockets that a process has: with so many connections, each worker has some.
        held = [
            sum(
                os.readlink(entry).startswith("socket:")
                for entry in Path(f"/proc/{pid}/fd").iterdir()
                if entry.exists()
            )
            for pid in workers
        ]
        assert min(held) > 5
        for channel in channels:
            channel.close()


def test_a_worker_that_is_killed_is_started_again_and_the_others_go_on(tmp_path: Path) -> None:
    with Server(tmp_path / "server", "--workers", "2") as server:
        before = workers_of(server)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(workers_of(server) - {killed}) == 2)
        assert max(before) in workers_of(server)
        until(lambda: all(answers(server.address) for _ in range(10)))


def test_workers_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    with Server(tmp_path / "server", "--workers", "2") as server:
        workers = workers_of(server)
        server.kill()
        until(lambda: not any(is_running(pid) for pid in workers))
        address = server.address
    with Server(tmp_path / "server", "--workers", "2", listen=address) as again:
        assert answers(again.address)


def test_a_hangup_replaces_the_workers_one_by_one_while_calls_go_on(tmp_path: Path) -> None:
    with Server(tmp_path / "server", "--workers", "2") as server:
        before = workers_of(server)
        failed: list[grpc.RpcError] = []
        replaced = threading.Event()

        def call() -> int:
            calls = 0
            with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                check = channel.unary_unary(HEALTH)
                while not replaced.is_set():
                    try:
                        check(b"", timeout=DEADLINE_SECONDS)
                        calls += 1
                    except grpc.RpcError as error:
                        failed.append(error)
            return calls

        results: list[int] = []
        threads = [threading.Thread(target=lambda: results.append(call())) for _ in range(4)]
        for thread in threads:
            thread.start()
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(workers_of(server)) == 2 and not workers_of(server) & before)
        replaced.set()
        for thread in threads:
            thread.join()
        # What has arrived, and was not taken up when its worker stopped, gRPC's core itself gives up.
        assert {error.code() for error in failed} <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        assert len(failed) <= 2 * len(threads)
        assert min(results) > 2 * len(threads)


def test_another_server_cannot_share_the_port_by_accident(tmp_path: Path) -> None:
    with Server(tmp_path / "server", "--workers", "2") as server:
        result = run("serve", "--listen", server.address, "--http-listen", "none", "--workers", "2", cwd=tmp_path)
        assert server.address in failure(result)


def test_a_server_whose_workers_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "no-database").write_text("this is no database, but it is long enough to look like one" * 100)
    result = run(
        "serve",
        "--workers",
        "2",
        "--database-url",
        f"sqlite:///{tmp_path / 'no-database'}",
        cwd=tmp_path,
    )
    assert "file is not a database" in failure(result)


RESTLESS = """
import logging, os, sys
from server.core.logs import configure_logs
from server.process.supervisor import Supervisor

configure_logs()

def work(number, ready):
    ready()
    os._exit(3)

Supervisor(1, work).run(*[lambda: None] * 3)
"""


def test_a_worker_that_dies_again_and_again_is_started_later_each_time(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", RESTLESS], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [json.loads(process.stderr.readline()) for _ in range(5)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
    assert [line["restart_in_seconds"] for line in lines] == [0.1, 0.2, 0.4, 0.8, 1.6]
    times = [line["time"] for line in lines]
    assert times == sorted(times)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_workers_end_in_order(number: signal.Signals, tmp_path: Path) -> None:
    with Server(tmp_path / "server", "--workers", "3") as server:
        workers = workers_of(server)
        server.process.send_signal(number)
        assert server.process.wait(DEADLINE_SECONDS) == 0
        assert not any(is_running(pid) for pid in workers)
