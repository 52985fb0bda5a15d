"""`python -m server.process.healthcheck`, which the container runtime calls."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from tests.certificates import Authority
from tests.processes import Server, environment


def healthcheck(address: str, **variables: str) -> tuple[int, str]:
    """Its exit code, and what it says."""
    result = subprocess.run(
        [sys.executable, "-I", "-m", "server.process.healthcheck"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(MODELREGISTRY_LISTEN=address, GRPC_VERBOSITY="NONE", **variables),
    )
    assert result.stdout == ""
    return result.returncode, result.stderr


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [(health_pb2.HealthCheckResponse.SERVING, 0), (health_pb2.HealthCheckResponse.NOT_SERVING, 1)],
)
def test_it_exits_as_the_server_says_that_it_serves(status: int, exit_code: int) -> None:
    servicer = HealthServicer()
    servicer.set("", status)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        # As in a container: all addresses, and a proxy that knows nothing of them; [::] are those of IPv4, too.
        for host in ("0.0.0.0", "[::]"):
            assert healthcheck(f"{host}:{port}", http_proxy="http://127.0.0.1:1") == (exit_code, "")
    finally:
        server.stop(None)


def test_a_server_that_is_away_is_not_healthy() -> None:
    exit_code, said = healthcheck("127.0.0.1:1")
    assert exit_code == 1
    assert said.startswith("error: ")


def test_it_speaks_tls_and_shows_a_certificate_where_the_server_does(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    (cert, key), (client_cert, client_key) = authority.issue("localhost"), authority.issue("probe")
    flags = ("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", authority.cert)
    with Server(tmp_path / "cwd", *flags) as server:
        variables = {"MODELREGISTRY_TLS_CERT": str(cert)}
        assert healthcheck(server.address, **variables)[0] == 1
        variables |= {"MODELREGISTRY_CLIENT_CERT": str(client_cert), "MODELREGISTRY_CLIENT_KEY": str(client_key)}
        assert healthcheck(server.address, **variables) == (0, "")
