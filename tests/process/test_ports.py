"""Where a server is reached: the same address means the same for gRPC, HTTP and metrics."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from server.core.config import ConfigError, Settings
from server.process.ports import Ports, bind, listen_for_grpc

WILDCARDS = ["0.0.0.0", "[::]", "[0:0:0:0:0:0:0:0]", "[::ffff:0.0.0.0]"]


def settings_for(host: str, port: int = 0) -> Settings:
    return Settings(listen=f"{host}:{port}", http_listen=f"{host}:0", metrics_listen=f"{host}:0", local_keys=True)


@contextmanager
def listening(host: str) -> Iterator[Ports]:
    """The ports of a server, with gRPC behind its own."""
    settings = settings_for(host)
    with contextlib.closing(bind(settings)) as ports:
        server = grpc.server(ThreadPoolExecutor(1))
        listen_for_grpc(server, ports, settings)
        server.start()
        try:
            yield ports
        finally:
            server.stop(None).wait()


def reached_at(port: socket.socket | None) -> set[str]:
    """At which loopback addresses a server listens."""
    assert port is not None
    found = set()
    for host in ("127.0.0.1", "::1"):
        # Without IPv6 there is no ::1 to connect to.
        with contextlib.suppress(OSError), socket.create_connection((host, port.getsockname()[1]), timeout=180):
            found.add(host)
    return found


@pytest.mark.parametrize("host", [*WILDCARDS, "127.0.0.1", "[::ffff:127.0.0.1]"])
def test_http_and_metrics_are_reached_wherever_grpc_is(host: str) -> None:
    with listening(host) as ports:
        reached = reached_at(ports.grpc)

        assert "127.0.0.1" in reached
        assert reached_at(ports.http) == reached
        assert reached_at(ports.metrics) == reached


@pytest.mark.parametrize("host", WILDCARDS)
def test_without_ipv6_all_addresses_are_those_of_ipv4(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)

    with listening(host) as ports:
        for port in (ports.grpc, ports.http, ports.metrics):
            assert port is not None
            assert port.family == socket.AF_INET
            assert "127.0.0.1" in reached_at(port)


@pytest.mark.parametrize("host", [*WILDCARDS, "127.0.0.1"])
@pytest.mark.parametrize("other", WILDCARDS)
def test_a_port_that_is_taken_at_one_address_is_taken_at_all(host: str, other: str) -> None:
    with listening(host) as ports:
        assert ports.http is not None
        for port in (ports.grpc, ports.http):
            with pytest.raises(ConfigError, match="cannot listen on"):
                bind(settings_for(other, port.getsockname()[1]))
