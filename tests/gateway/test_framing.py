"""Where one request ends and the next begins, and what belongs to which: nobody gets more by bending it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.builders import FOLDER
from tests.processes import Server

DEADLINE_SECONDS = 60
CREATE = b"POST /api/v2/models HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
OPENAPI = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("framing") / "cwd") as server:
        yield server


def connect(server: Server) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_SECONDS)


def talk(server: Server, *packets: bytes, finish: bool = False) -> list[bytes]:
    """Send each packet, and return the answers until the server closes; `finish` says that nothing more will come."""
    with connect(server) as connection:
        try:
            for packet in packets:
                connection.sendall(packet)
            if finish:
                connection.shutdown(socket.SHUT_WR)
            return rest_of(connection)
        except ConnectionResetError:
            return []


def rest_of(connection: socket.socket) -> list[bytes]:
    received = b""
    while part := connection.recv(2**16):
        received += part
    return received.split(b"HTTP/1.1 ")[1:]


def statuses(answers: list[bytes]) -> list[bytes]:
    return [answer[:3] for answer in answers]


def bearer(server: Server) -> bytes:
    return f"Authorization: Bearer {server.token()}\r\n".encode()


def model(name: str) -> bytes:
    return json.dumps({"name": name, "parentFolderRid": FOLDER}).encode()


def sized(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def is_answered_soon(server: Server) -> bool:
    start = time.monotonic()
    assert statuses(talk(server, OPENAPI + b"Connection: close\r\n\r\n")) == [b"200"]
    return time.monotonic() - start < DEADLINE_SECONDS / 4


@pytest.mark.parametrize("trailers", [b"X-T: " + b"a" * 2**20, b"x: y\r\n" * 2**18], ids=["long", "many"])
def test_trailers_have_a_bound(server: Server, trailers: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(CREATE + bearer(server) + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
        with pytest.raises(ConnectionError):
            connection.sendall(trailers * 64)
    assert is_answered_soon(server)


def test_a_trailer_is_no_header(server: Server) -> None:
    body = model("trailer")
    chunked = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(body), body)

    assert statuses(talk(server, CREATE + chunked + bearer(server) + b"\r\n")) == [b"401"]


def test_a_request_that_arrives_with_half_of_the_next_is_answered(server: Server) -> None:
    padded = model("pipelined") + b" " * 60_000

    answers = talk(
        server,
        CREATE + bearer(server) + sized(padded) + b"GET /nope HT",
        b"TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )

    assert statuses(answers) == [b"200", b"404"]


@pytest.mark.parametrize("offer", [b"h2c", b"websocket"])
def test_an_offer_of_another_protocol_is_ignored(server: Server, offer: bytes) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMA\r\n" % offer
    first = CREATE + bearer(server) + upgrade + sized(model(f"upgraded {offer.decode()}"))

    answers = talk(server, first + b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert statuses(answers) == [b"200", b"404"]


def test_a_body_is_never_the_next_request(server: Server) -> None:
    """Also where another protocol is offered, piece by piece."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(CREATE + bearer(server) + b"Connection: Upgrade, close\r\nUpg")
        assert is_answered_soon(server)  # by then, the first piece has been read
        connection.sendall(b"rade: h2c\r\nContent-Length: %d\r\n\r\n" % len(smuggled))
        assert is_answered_soon(server)
        connection.sendall(smuggled)
        (answer,) = rest_of(connection)

    assert answer.startswith(b"400 ")
    assert b"InvalidArgument" in answer


HOSTS = [
    b"x",
    b"x:8080",
    b"x:",
    b"models.example.com",
    b"127.0.0.1:80",
    b"[::1]",
    b"[2001:db8::1]:8080",
    b"x_y-z.%C3%A4",
]


def test_a_request_names_its_host(server: Server) -> None:
    for host in HOSTS:
        answers = talk(server, b"GET /nope HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host)
        assert statuses(answers) == [b"404"], host


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"Host:\r\n",
        b"Host: \t\r\n",
        b"Host: x\r\nHost: x\r\n",
        b"Host: x\r\nhOST: y\r\n",
        b"Host: x\r\nHost:\r\n",
        b"Host: x y\r\n",
        b"Host: x/y\r\n",
        b"Host: user@x\r\n",
        b"Host: x:port\r\n",
        b"Host: x:1:2\r\n",
        b"Host: ::1\r\n",
        b"Host: [::1\r\n",
        b"Host: http://x\r\n",
        b"Host: \xc3\xa4\r\n",
        b"Host: x, y\r\n",
    ],
)
@pytest.mark.parametrize("target", [b"/openapi.json", b"http://x/openapi.json"], ids=["path", "whole URL"])
def test_a_request_that_names_no_host_or_two_is_none(server: Server, target: bytes, lines: bytes) -> None:
    [answer] = talk(server, b"GET %s HTTP/1.1\r\n%s\r\n" % (target, lines) + OPENAPI + b"\r\n")
    assert answer.startswith(b"400 ")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert error["errorName"] == "MalformedHttpRequest"
    assert "Host" in answer.decode()


def test_before_http_1_1_a_request_may_name_no_host_and_never_two(server: Server) -> None:
    asked = b"GET /openapi.json HTTP/1.0\r\n%s\r\n"
    assert statuses(talk(server, asked % b"")) == [b"200"]
    assert statuses(talk(server, asked % b"Host: x\r\n")) == [b"200"]
    assert statuses(talk(server, asked % b"Host: x\r\nHost: x\r\n")) == [b"400"]
    assert statuses(talk(server, asked % b"Host:\r\n")) == [b"400"]


def test_a_tunnel_is_refused(server: Server) -> None:
    (answer,) = talk(server, b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere\r\n\r\n" + OPENAPI + b"\r\n")

    assert answer.startswith(b"400 ")
    assert b"MalformedHttpRequest" in answer


def test_who_has_sent_all_and_says_so_gets_the_answer(server: Server) -> None:
    answers = talk(server, CREATE + bearer(server) + sized(model("half closed")), finish=True)

    assert statuses(answers) == [b"200"]


def test_a_request_that_was_answered_early_is_not_answered_twice(server: Server) -> None:
    early = CREATE.replace(b"application/json", b"text/plain") + bearer(server) + b"Transfer-Encoding: chunked\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(early)
        first = connection.recv(2**16)
        connection.sendall(b"no chunk\r\n")
        assert rest_of(connection) == []
    assert first.startswith(b"HTTP/1.1 415 ")


def test_a_connection_goes_on_after_an_early_answer(server: Server) -> None:
    early = CREATE.replace(b"application/json", b"text/plain") + bearer(server) + b"Content-Length: 8\r\n\r\nsome"
    with connect(server) as connection:
        connection.sendall(early)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 415 ")
        connection.sendall(b"more" + b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert statuses(rest_of(connection)) == [b"404"]


def test_two_credentials_are_none(server: Server) -> None:
    for headers in (bearer(server) + bearer(server), bearer(server) + b"Authorization: Bearer nonsense\r\n"):
        answers = talk(server, CREATE + headers + b"Connection: close\r\n" + sized(model("twice")))
        assert statuses(answers) == [b"401"]


def test_two_encodings_are_not_plain(server: Server) -> None:
    encodings = b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\nConnection: close\r\n"

    assert statuses(talk(server, CREATE + bearer(server) + encodings + sized(model("encoded")))) == [b"415"]


@pytest.mark.parametrize("pairs", [b"a:b\r\n" * 10_000, b"a:\r\n" * 16_000], ids=["10000", "16000"])
def test_small_headers_count_with_what_stands_around_them(server: Server, pairs: bytes) -> None:
    answers = talk(server, OPENAPI + pairs + b"\r\n")

    assert statuses(answers) in ([b"431"], [])  # a client that still sends may see the connection end first


def test_the_longest_timeout_is_as_good_as_any(server: Server) -> None:
    for timeout in (b"99999999H", b"1M"):
        headers = bearer(server) + b"Grpc-Timeout: " + timeout + b"\r\nConnection: close\r\n"
        assert statuses(talk(server, CREATE + headers + sized(model(f"patient {timeout.decode()}")))) == [b"200"]


def test_a_timeout_that_is_none_comes_after_the_credentials(server: Server) -> None:
    wrong = b"Grpc-Timeout: soon\r\nConnection: close\r\n" + sized(model("hasty"))

    assert statuses(talk(server, CREATE + wrong)) == [b"401"]
    assert statuses(talk(server, CREATE + bearer(server) + wrong)) == [b"400"]


@pytest.mark.parametrize("items", ["1", '""', "{}"])
def test_a_large_body_of_a_stranger_keeps_nobody_waiting(server: Server, items: str) -> None:
    body = f'{{"condaRequirements": [{",".join([items] * (4_000_000 // (len(items) + 1)))}]}}'.encode()
    path = CREATE.replace(b"/models ", b"/models/ri.models.main.model.x/versions ")

    with ThreadPoolExecutor(1) as threads:
        start = time.monotonic()
        stranger = threads.submit(talk, server, path + b"Connection: close\r\n" + sized(body))
        assert is_answered_soon(server)
        assert statuses(stranger.result()) == [b"401"]
        assert time.monotonic() - start < DEADLINE_SECONDS / 4


@pytest.mark.parametrize(
    "key", [b"", b"Idempotency-Key: 8a0c96e7-8d08-4f54-8d62-fec9561f2d8a\r\n"], ids=["", "with a key"]
)
def test_a_request_that_is_too_slow_for_the_end_of_the_server_is_told_so_in_json(tmp_path: Path, key: bytes) -> None:
    with Server(tmp_path / "cwd") as server, connect(server) as connection:
        body = model("too slow")
        connection.sendall(CREATE + bearer(server) + key + b"Content-Length: %d\r\n\r\n%s" % (len(body), body[:-5]))
        assert is_answered_soon(server)
        server.terminate()
        (answer,) = rest_of(connection)
        server.stop()

    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"503 ")
    assert b"content-type: application/json" in head.lower()
    assert (b"qos-retry-hint: do-not-retry" in head.lower()) == (not key)
    assert json.loads(content)["errorName"] == "Cancelled"
