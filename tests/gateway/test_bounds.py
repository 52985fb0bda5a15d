"""No client holds a connection for longer than it may, nor more of them than there are; others go on meanwhile."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelregistry.v1.model_pb2 import Model
from server.gateway import protocol
from server.gateway.probes import PROBES
from tests.certificates import Authority
from tests.gateway.harness import DEADLINE_SECONDS, Gateway, gateway

PATH = "/api/v2/models/ri.models.main.model.some"
GET = f"GET {PATH} HTTP/1.1\r\nHost: some\r\n\r\n".encode()
GET_ONCE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
# More than the buffers of the sockets between a client and the gateway hold.
LARGE = Model(name="x" * 32 * 2**20)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    with gateway(monkeypatch) as running:
        yield running


def connected(running: Gateway) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(*running.address, timeout=DEADLINE_SECONDS)


def get(connection: http.client.HTTPConnection) -> bytes:
    """What a request that must succeed is answered."""
    connection.request("GET", PATH)
    response = connection.getresponse()
    assert response.status == 200
    return response.read()


def all_that_comes(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(2**20), b""))


each_way_to_ask = pytest.mark.parametrize(
    "sent", [GET, GET_ONCE, GET + GET, GET + b"GET /"], ids=["one", "a last one", "two", "one and a bit"]
)


@each_way_to_ask
def test_who_never_reads_its_answer_is_cut_off(running: Gateway, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "ANSWER_SECONDS", 0.5)
    running.backend.answer = LARGE

    with running.connect() as hoarder:
        hoarder.sendall(sent)
        running.wait_for_the_end_of(hoarder.getsockname())

        assert len(all_that_comes(hoarder)) < len(LARGE.name)


@pytest.mark.parametrize("idle_timeout_seconds", [0.3, 0.8])
@each_way_to_ask
def test_so_it_is_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes, idle_timeout_seconds: float
) -> None:
    """What lies in the buffers of TLS does not show, but the end of an idle connection does, before it or after."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "ANSWER_SECONDS", 0.5)
    authority = Authority(tmp_path / "authority")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(*authority.issue("localhost"))
    trusting = ssl.create_default_context(cafile=str(authority.cert))

    with gateway(monkeypatch, served, idle_timeout_seconds) as running:
        running.backend.answer = LARGE
        with running.connect() as plain, trusting.wrap_socket(plain, server_hostname="localhost") as hoarder:
            hoarder.sendall(sent)
            running.wait_for_the_end_of(hoarder.getsockname())


def test_others_go_on_meanwhile(running: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "ANSWER_SECONDS", 0.5)
    running.backend.answer = LARGE
    reader = connected(running)

    with running.connect() as hoarder:
        assert LARGE.name.encode() in get(reader)
        hoarder.sendall(GET)
        for _ in range(2):
            running.backend.asked.get(timeout=DEADLINE_SECONDS)
        assert LARGE.name.encode() in get(reader)
        running.wait_for_the_end_of(hoarder.getsockname())
        # Its connection is still the one of before.
        assert LARGE.name.encode() in get(reader)

    reader.close()


def test_a_connection_may_be_idle_before_its_first_request_as_long_as_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load balancers open connections ahead; a 408 there would be taken for the answer to the first request."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    with gateway(monkeypatch, idle_timeout_seconds=0.6) as running:
        before = time.monotonic()
        with running.connect() as ahead:
            assert all_that_comes(ahead) == b""
        assert time.monotonic() - before >= 0.6

        used = connected(running)
        before = time.monotonic()
        get(used)
        assert all_that_comes(used.sock) == b""
        assert time.monotonic() - before >= 0.6
        used.close()


def test_the_first_request_may_come_when_headers_would_be_late(
    running: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    with running.connect() as ahead, running.connect() as slow:
        slow.sendall(b"GET /")
        assert all_that_comes(slow).startswith(b"HTTP/1.1 408 ")
        ahead.sendall(GET_ONCE)
        assert all_that_comes(ahead).startswith(b"HTTP/1.1 200 ")


def test_blank_lines_do_not_keep_a_connection(running: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    connection = connected(running)
    get(connection)

    connection.sock.sendall(b"\r\n")

    assert all_that_comes(connection.sock).startswith(b"HTTP/1.1 408 ")
    connection.close()


def test_half_a_request_does_not_keep_a_connection(running: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)

    with running.connect() as connection:
        connection.sendall(GET + b"GET /")
        begin = connection.recv(2**20)
        connection.sendall(b"some")
        answers = begin + all_that_comes(connection)

    assert [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"408"]


@pytest.mark.parametrize("sent", [GET + GET, GET], ids=["two", "one"])
def test_who_waits_for_an_answer_may_take_its_time_with_the_next_request(
    running: Gateway, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    running.backend.may_answer.clear()

    with running.connect() as waiting, running.connect() as slow:
        waiting.sendall(sent + b"GET /")
        running.backend.asked.get(timeout=DEADLINE_SECONDS)
        slow.sendall(b"GET /")
        assert all_that_comes(slow).startswith(b"HTTP/1.1 408 ")
        running.backend.may_answer.set()
        answers = all_that_comes(waiting).split(b"HTTP/1.1 ")[1:]

    assert [answer[:3] for answer in answers] == [b"200"] * sent.count(b"GET") + [b"408"]


@pytest.mark.parametrize(
    "wrong", [b"nonsense\r\n\r\n", b"GET /" + b"x" * protocol.MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n"]
)
def test_what_is_wrong_with_a_request_is_not_told_as_the_answer_to_the_one_before(
    running: Gateway, wrong: bytes
) -> None:
    running.backend.may_answer.clear()

    with running.connect() as connection:
        connection.sendall(GET)
        running.backend.asked.get(timeout=DEADLINE_SECONDS)
        connection.sendall(wrong)
        told = all_that_comes(connection)

    running.backend.may_answer.set()
    assert told == b""


def test_a_connection_too_many_is_told_so_and_closed(running: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    connections = [connected(running), connected(running)]
    for connection in connections:
        get(connection)

    with running.connect() as silent:
        head, _, body = all_that_comes(silent).partition(b"\r\n\r\n")
    refused = connected(running)
    refused.request("GET", PATH)
    answer = refused.getresponse()

    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"content-type: application/json" in head.lower()
    assert (answer.status, answer.getheader("Content-Type")) == (429, "application/json")
    for text in (body, answer.read()):
        envelope = json.loads(text)
        assert set(envelope) == {"errorCode", "errorName", "errorInstanceId", "errorDescription", "parameters"}
        assert (envelope["errorCode"], envelope["errorName"]) == ("RESOURCE_EXHAUSTED", "Overloaded")
    # Nothing was executed, so whoever comes again does no harm.
    assert answer.getheader("Retry-After") == "1"
    assert answer.getheader("QoS-Retry-Hint") is None
    assert answer.will_close
    for connection in connections:
        get(connection)
        connection.close()


@pytest.mark.parametrize("probe", PROBES)
def test_probes_are_answered_on_a_connection_too_many_and_nothing_else_is(
    running: Gateway, monkeypatch: pytest.MonkeyPatch, probe: str
) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 1)
    first = connected(running)
    get(first)

    with running.connect() as probing:
        probing.sendall(GET.replace(PATH.encode(), probe.encode() + b"?verbose") * 2)
        answers = all_that_comes(probing).split(b"HTTP/1.1 ")[1:]
    with running.connect() as other:
        other.sendall(GET.replace(PATH.encode(), b"/openapi.json"))
        refused = all_that_comes(other)

    assert [answer[:3] for answer in answers] == [b"200"]
    assert b"connection: close" in answers[0].lower()
    assert refused.startswith(b"HTTP/1.1 429 ")
    get(first)
    first.close()


def test_connections_for_probes_are_bounded_too(running: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(protocol, "PROBE_CONNECTIONS", 1)
    first = connected(running)
    get(first)

    with running.connect(), running.connect() as third:
        assert all_that_comes(third).startswith(b"HTTP/1.1 429 ")
    first.close()


def test_a_connection_that_ends_makes_room_for_another(running: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(protocol, "PROBE_CONNECTIONS", 0)
    first = connected(running)
    get(first)
    address = first.sock.getsockname()

    first.close()
    running.wait_for_the_end_of(address)

    second = connected(running)
    get(second)
    second.close()
