"""Clients that go away before they are answered: nobody works for them any more, as far as they can be told apart."""

from __future__ import annotations

import socket
import ssl
import struct
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.gateway.harness import DEADLINE_SECONDS, Gateway, gateway

RPC = "/modelregistry.v1.ModelService/GetModel"
GET = b"GET /api/v2/models/ri.models.main.model.some HTTP/1.1\r\nHost: some\r\n%s\r\n"
POST = (
    b"POST /api/v2/models HTTP/1.1\r\nHost: some\r\nContent-Type: application/json\r\nContent-Length: 50\r\n%s\r\n"
    b'{"name": "one", "parentFolderRid": "ri.a.b.c.one"}'
)
# A connection that is closed with it ends by a reset, and not by saying that nothing more will come.
RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def asked(running: Gateway) -> str:
    return running.backend.asked.get(timeout=DEADLINE_SECONDS).rpc


def over(running: Gateway) -> str:
    return running.backend.over.get(timeout=DEADLINE_SECONDS)


@pytest.mark.parametrize("sent", [GET, POST], ids=["GET", "POST"])
def test_the_call_of_a_client_that_hangs_up_is_cancelled(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    with gateway(monkeypatch) as running:
        running.backend.may_answer.clear()
        with running.connect() as client:
            client.sendall(sent % running.bearer())
            rpc = asked(running)
            client.setsockopt(*RESET)
        assert over(running) == rpc
        assert not running.backend.may_answer.is_set()
        running.backend.may_answer.set()


def test_so_it_is_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path / "authority")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(*authority.issue("localhost"))
    trusting = ssl.create_default_context(cafile=str(authority.cert))
    with gateway(monkeypatch, served) as running:
        running.backend.may_answer.clear()
        with trusting.wrap_socket(running.connect(), server_hostname="localhost") as client:
            client.sendall(GET % running.bearer())
            assert asked(running) == RPC
        assert over(running) == RPC
        running.backend.may_answer.set()


def test_who_has_only_sent_all_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway(monkeypatch) as running, running.connect() as client:
        running.backend.may_answer.clear()
        client.sendall(GET % running.bearer())
        client.shutdown(socket.SHUT_WR)
        assert asked(running) == RPC
        running.backend.may_answer.set()
        assert client.recv(2**16).startswith(b"HTTP/1.1 200 ")
