"""How Prometheus is answered."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from server.observability.prometheus import Prometheus
from server.observability.scrapes import MetricsServer
from server.storage.contract import ConnectionUse

IDLE = ConnectionUse(in_use=0, idle=2, limit=4)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def url(listener: socket.socket, path: str = "/metrics") -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}{path}"


def scrape(listener: socket.socket) -> str:
    with urllib.request.urlopen(url(listener), timeout=180) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return answer.read().decode()


def serving(listener: socket.socket, prometheus: Prometheus) -> MetricsServer:
    server = MetricsServer(listener, prometheus.registry, lambda: prometheus.sample(IDLE))
    server.start()
    return server


def test_an_answer_tells_what_is_counted_and_what_is_true_at_the_moment(listener: socket.socket) -> None:
    prometheus = Prometheus(["rollback"])
    server = serving(listener, prometheus)
    prometheus.promoted("rollback")

    answer = scrape(listener)

    server.stop()
    assert 'modelregistry_promotions_total{kind="rollback"} 1.0\n' in answer
    assert 'modelregistry_database_connections{state="idle"} 2.0\n' in answer


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz"])
def test_there_is_nothing_else(listener: socket.socket, path: str) -> None:
    server = serving(listener, Prometheus([]))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url(listener, path), timeout=180)
    server.stop()
    assert refused.value.code == 404


def test_a_client_that_says_nothing_keeps_nobody_waiting(listener: socket.socket) -> None:
    server = serving(listener, Prometheus([]))
    with socket.create_connection(listener.getsockname()):
        assert scrape(listener)
    server.stop()


def test_servers_on_one_socket_share_the_clients_and_none_waits_for_one_that_another_got() -> None:
    shared = socket.create_server(("127.0.0.1", 0))
    servers = [serving(shared.dup(), Prometheus([])) for _ in range(3)]

    answers = [scrape(shared) for _ in range(30)]

    stopping = threading.Thread(target=lambda: [server.stop() for server in servers])
    stopping.start()
    stopping.join(30)
    shared.close()
    assert all(answers)
    assert not stopping.is_alive()
