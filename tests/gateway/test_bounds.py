"""No client holds a connection for longer than it may, nor more of them than there are; others go on meanwhile."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelregistry.v1.model_pb2 import Model
from server.gateway.limits import HttpLimits
from tests.certificates import Authority
from tests.gateway.harness import DEADLINE_SECONDS, MAX_MESSAGE_BYTES, Gateway, gateway

PATH = "/api/v2/models/ri.models.main.model.some"
GET = f"GET {PATH} HTTP/1.1\r\nHost: some\r\n\r\n".encode()
GET_ONCE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
POST = b"POST /api/v2/models HTTP/1.1\r\nHost: some\r\nContent-Type: application/json\r\n"
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
def test_who_never_reads_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    with gateway(monkeypatch, head_seconds=0.5, answer_seconds=0.5) as running, running.connect() as hoarder:
        running.backend.answer = LARGE
        hoarder.sendall(sent)
        running.wait_for_the_end_of(hoarder.getsockname())

        assert len(all_that_comes(hoarder)) < len(LARGE.name)


@each_way_to_ask
def test_so_it_is_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    authority = Authority(tmp_path / "authority")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(*authority.issue("localhost"))
    trusting = ssl.create_default_context(cafile=str(authority.cert))

    with gateway(monkeypatch, served, head_seconds=0.5, answer_seconds=0.5) as running:
        running.backend.answer = LARGE
        with running.connect() as plain, trusting.wrap_socket(plain, server_hostname="localhost") as hoarder:
            hoarder.sendall(sent)
            running.wait_for_the_end_of(hoarder.getsockname())


def test_a_message_is_bounded_and_not_its_json_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway(monkeypatch, max_body_bytes=2 * MAX_MESSAGE_BYTES) as running:
        connection = connected(running)
        headers = {"Authorization": f"Bearer {running.token()}", "Content-Type": "application/json"}
        for size, status in ((MAX_MESSAGE_BYTES, 413), (MAX_MESSAGE_BYTES - 100, 200)):
            connection.request("POST", "/api/v2/models", json.dumps({"name": "x" * size}), headers)
            response = connection.getresponse()
            assert (response.status, b"RequestTooLarge" in response.read()) == (status, status == 413)
        connection.close()
        assert running.backend.asked.qsize() == 1


def test_others_go_on_meanwhile(running: Gateway) -> None:
    with running.connect() as hoarder:
        running.backend.answer = LARGE
        reader = connected(running)
        assert LARGE.name.encode() in get(reader)
        hoarder.sendall(GET)
        for _ in range(2):
            running.backend.asked.get(timeout=DEADLINE_SECONDS)
        assert LARGE.name.encode() in get(reader)
        reader.close()


def test_the_connections_of_others_stay_when_one_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway(monkeypatch, answer_seconds=0.5) as running, running.connect() as hoarder:
        small, running.backend.answer = running.backend.answer, LARGE
        hoarder.sendall(GET)
        running.backend.over.get(timeout=DEADLINE_SECONDS)
        # It has room in the buffers of the sockets, so that no time runs until it is read.
        running.backend.answer = small
        reader = connected(running)
        assert small.name.encode() in get(reader)
        running.wait_for_the_end_of(hoarder.getsockname())
        # Its connection is still the one of before.
        assert small.name.encode() in get(reader)
        reader.close()


def test_a_connection_may_be_idle_before_its_first_request_as_long_as_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load balancers open connections ahead; a 408 there would be taken for the answer to the first request."""
    with gateway(monkeypatch, head_seconds=0.1, idle_seconds=0.6) as running:
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


def test_the_first_request_may_come_when_headers_would_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        gateway(monkeypatch, head_seconds=0.1) as running,
        running.connect() as ahead,
        running.connect() as slow,
    ):
        slow.sendall(b"GET /")
        assert all_that_comes(slow).startswith(b"HTTP/1.1 408 ")
        ahead.sendall(GET_ONCE)
        assert all_that_comes(ahead).startswith(b"HTTP/1.1 200 ")


def test_blank_lines_do_not_keep_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway(monkeypatch, head_seconds=0.5) as running:
        connection = connected(running)
        get(connection)

        connection.sock.sendall(b"\r\n")

        assert all_that_comes(connection.sock).startswith(b"HTTP/1.1 408 ")
        connection.close()


def test_half_a_request_does_not_keep_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway(monkeypatch, head_seconds=0.5) as running, running.connect() as connection:
        connection.sendall(GET + b"GET /")
        begin = connection.recv(2**20)
        connection.sendall(b"some")
        answers = begin + all_that_comes(connection)

    assert [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"408"]


@pytest.mark.parametrize("sent", [GET + GET, GET], ids=["two", "one"])
def test_who_waits_for_an_answer_may_take_its_time_with_the_next_request(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    with (
        gateway(monkeypatch, head_seconds=0.3) as running,
        running.connect() as waiting,
        running.connect() as slow,
    ):
        running.backend.may_answer.clear()
        waiting.sendall(sent + b"GET /")
        running.backend.asked.get(timeout=DEADLINE_SECONDS)
        slow.sendall(b"GET /")
        assert all_that_comes(slow).startswith(b"HTTP/1.1 408 ")
        running.backend.may_answer.set()
        answers = all_that_comes(waiting).split(b"HTTP/1.1 ")[1:]

    assert [answer[:3] for answer in answers] == [b"200"] * sent.count(b"GET") + [b"408"]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /" + b"x" * HttpLimits().max_head_bytes + b" HTTP/1.1\r\n\r\n", b"431"),
    ],
    ids=["no request", "a long one"],
)
@pytest.mark.parametrize("together", [True, False], ids=["together", "later"])
def test_what_is_wrong_with_a_request_is_told_behind_the_answer_to_the_one_before(
    running: Gateway, wrong: bytes, status: bytes, together: bool
) -> None:
    running.backend.may_answer.clear()

    with running.connect() as connection:
        connection.sendall(GET + wrong if together else GET)
        running.backend.asked.get(timeout=DEADLINE_SECONDS)
        connection.sendall(b"" if together else wrong)
        running.backend.may_answer.set()
        answers = all_that_comes(connection).split(b"HTTP/1.1 ")[1:]

    assert [answer[:3] for answer in answers] == [b"200", status]
    assert b"connection: close" in answers[1].lower()


@pytest.mark.parametrize(
    ("sent", "more"), [(b"GET /", b"x"), (GET[:-2], b"x: y\r\n")], ids=["in its first line", "in its headers"]
)
def test_a_head_has_its_time_from_its_first_byte_however_it_comes(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, more: bytes
) -> None:
    """A byte now and then gains nothing."""
    with gateway(monkeypatch, head_seconds=0.5) as running, running.connect() as connection:
        connection.sendall(sent)
        connection.settimeout(0.05)
        for _ in range(DEADLINE_SECONDS * 20):
            try:
                answer = connection.recv(2**16)
                break
            except TimeoutError:
                connection.sendall(more)
        connection.settimeout(DEADLINE_SECONDS)
        answer += all_that_comes(connection)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["errorName"] == "RequestTimeout"


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with a length"])
def test_a_body_has_its_time_too(monkeypatch: pytest.MonkeyPatch, chunked: bool) -> None:
    with gateway(monkeypatch, body_seconds=0.5) as running, running.connect() as connection:
        framing = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 1000\r\n\r\n"
        connection.sendall(POST + running.bearer() + framing)
        connection.settimeout(0.05)
        for _ in range(DEADLINE_SECONDS * 20):
            try:
                answer = connection.recv(2**16)
                break
            except TimeoutError:
                connection.sendall(b"1\r\n{\r\n" if chunked else b"{")
        connection.settimeout(DEADLINE_SECONDS)
        answer += all_that_comes(connection)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()


def test_requests_that_came_at_once_are_answered_one_by_one(running: Gateway) -> None:
    """However many: those behind the first wait as bytes."""
    many = 5000
    asking = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

    with running.connect() as connection:
        sending = threading.Thread(
            target=connection.sendall, args=(asking * many + GET_ONCE.replace(PATH.encode(), b"/readyz"),)
        )
        sending.start()
        answers = all_that_comes(connection).split(b"HTTP/1.1 ")[1:]
        sending.join()

    assert len(answers) == many + 1
    assert {answer[:3] for answer in answers} == {b"200"}
