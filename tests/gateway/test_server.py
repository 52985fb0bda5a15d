"""How the HTTP server stands beside gRPC: TLS as on the other port, a private socket for streams, an orderly end."""

from __future__ import annotations

import http.client
import json
import ssl
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.processes import Server, failure, run

PATH = "/api/v2/models/ri.models.main.model.none"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def status_of(server: Server, context: ssl.SSLContext, token: str | None) -> int:
    host, _, port = server.url.removeprefix("https://").rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
    connection.request("GET", PATH, headers={"Authorization": f"Bearer {token}"} if token else {})
    response = connection.getresponse()
    json.loads(response.read())
    connection.close()
    return response.status


def test_the_certificate_of_grpc_is_that_of_http_too(tmp_path: Path, authority: Authority) -> None:
    cert, key = authority.issue("localhost")
    with Server(tmp_path / "cwd", "--tls-cert", cert, "--tls-key", key) as server:
        assert server.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(authority.cert))
        assert status_of(server, trusting, server.token()) == 404
        with pytest.raises(ssl.SSLCertVerificationError):
            status_of(server, ssl.create_default_context(), server.token())


@pytest.mark.parametrize("is_bare", [False, True])
def test_a_client_certificate_adds_to_the_token_and_replaces_it_never(
    tmp_path: Path, authority: Authority, is_bare: bool
) -> None:
    """It may be a bare one: gRPC takes these, and with it HTTP on each version of Python."""
    cert, key = authority.issue("localhost")
    clients = Authority(tmp_path / "clients", is_bare=is_bare)
    with Server(tmp_path / "cwd", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", clients.cert) as server:
        unknown = ssl.create_default_context(cafile=str(authority.cert))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            status_of(server, unknown, server.token())
        known = ssl.create_default_context(cafile=str(authority.cert))
        known.load_cert_chain(*clients.issue("client"))
        assert status_of(server, known, server.token()) == 404
        assert status_of(server, known, None) == 401


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files with a path as short as usual; those of tests are longer than a socket's can be."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_the_socket_between_http_and_grpc_is_nobody_elses_and_is_gone_at_the_end(
    tmp_path: Path, temporary: Path
) -> None:
    with Server(tmp_path / "cwd", TMPDIR=str(temporary)):
        (folder,) = temporary.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (link,) = folder.iterdir()
        assert link.is_socket()
    assert list(temporary.iterdir()) == []


def test_a_folder_whose_path_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    temporary = tmp_path / ("long" * 30)
    temporary.mkdir()

    said = failure(run("serve", TMPDIR=str(temporary), cwd=tmp_path))

    assert "TMPDIR" in said
    assert list(temporary.iterdir()) == []
