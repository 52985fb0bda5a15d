"""Clients without good credentials use up nothing that others need: no connections, no places for bodies, no memory."""

from __future__ import annotations

import json
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path

import pytest

from server.core.caller import Caller
from server.core.errors import MissingCredentials
from server.process.resources import raise_file_limit
from tests.certificates import Authority
from tests.gateway.harness import DEADLINE_SECONDS, Gateway, gateway

PATH = b"/api/v2/models/ri.models.main.model.some"
GET = b"GET " + PATH + b" HTTP/1.1\r\nHost: some\r\n%s\r\n"
POST = b"POST /api/v2/models HTTP/1.1\r\nHost: some\r\nContent-Type: application/json\r\n%s%s\r\n"
BODY = b'{"name": "one", "parentFolderRid": "ri.a.b.c.one"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
PROBE = b"GET /readyz HTTP/1.1\r\nHost: some\r\n\r\n"
# What a stranger leaves lying about.
each_way_to_wait = pytest.mark.parametrize(
    "left", [b"", b"G", GET[:-4], PROBE], ids=["nothing", "a byte", "half a head", "an answered request"]
)


class Client:
    """Sends requests on one connection and reads their answers."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self._received = b""

    def ask(self, sent: bytes) -> int:
        """Send a request, and return the status of its answer."""
        self.socket.sendall(sent)
        return self.status()

    def status(self) -> int:
        """Read an answer, and return its status."""
        while b"\r\n\r\n" not in self._received:
            self._read()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(lines.get(b"content-length", 0))
        while len(self._received) < length:
            self._read()
        self.headers, self.content = lines, self._received[:length]
        self._received = self._received[length:]
        return int(head.split()[1])

    @property
    def error(self) -> str:
        """The name of the error that was answered."""
        name: str = json.loads(self.content)["errorName"]
        return name

    def _read(self) -> None:
        part = self.socket.recv(2**16)
        assert part, f"the connection has ended behind {self._received!r}"
        self._received += part


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes what a test opens."""
    with ExitStack() as stack:
        yield stack


def client(opened: ExitStack, running: Gateway, source: str = "127.0.0.1") -> Client:
    return Client(opened.enter_context(running.connect(source)))


def tls(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server presents, and what its clients trust."""
    authority = Authority(folder / "authority")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(*authority.issue("localhost"))
    return served, ssl.create_default_context(cafile=str(authority.cert))


def ends(connection: socket.socket) -> bool:
    """Whether the server ends a connection, which it does sooner or later."""
    try:
        while connection.recv(2**16):
            pass
    except ConnectionResetError:
        return True
    return True


@each_way_to_wait
def test_idle_connections_leave_room_for_those_with_credentials(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack, left: bytes
) -> None:
    with gateway(monkeypatch, max_connections=16, spare_connections=2) as running:
        before = client(opened, running)
        assert before.ask(GET % running.bearer()) == 200
        strangers = [opened.enter_context(running.connect(f"127.0.0.{2 + n % 50}")) for n in range(100)]
        for stranger in strangers[-18:]:
            stranger.sendall(left)

        after = client(opened, running)
        assert after.ask(GET % running.bearer("joe")) == 200
        assert before.ask(GET % running.bearer()) == 200
        assert ends(strangers[0])
        assert after.ask(GET % running.bearer("joe")) == 200


def test_thousands_of_idle_connections_do_so(monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
    raise_file_limit()  # The server here is part of this process, which has both ends of its connections.
    with gateway(monkeypatch) as running:
        before = client(opened, running)
        assert before.ask(GET % running.bearer()) == 200
        for n in range(4000):
            opened.enter_context(running.connect(f"127.0.1.{n % 250}"))

        assert client(opened, running).ask(GET % running.bearer("joe")) == 200
        assert before.ask(GET % running.bearer()) == 200


def test_the_connection_that_has_been_without_credentials_for_longest_makes_room(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack
) -> None:
    with gateway(monkeypatch, max_connections=2, spare_connections=1) as running:
        first, second, third = (client(opened, running, f"127.0.0.{n}") for n in (2, 3, 4))
        for each in (first, second, third):
            assert each.ask(PROBE) == 200
        assert first.ask(GET % running.bearer()) == 200

        fourth = client(opened, running, "127.0.0.5")

        assert fourth.ask(PROBE) == 200
        assert ends(second.socket)
        assert third.ask(PROBE) == 200
        assert first.ask(PROBE) == 200


def test_where_all_have_credentials_there_is_room_for_probes_alone(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack
) -> None:
    with gateway(monkeypatch, max_connections=2, spare_connections=1) as running:
        good = []
        for _ in range(2):
            good.append(client(opened, running))
            assert good[-1].ask(GET % running.bearer()) == 200
        other = client(opened, running)

        assert other.ask(PROBE) == 200
        assert other.ask(GET % running.bearer()) == 429
        assert (other.error, other.headers[b"retry-after"]) == ("Overloaded", b"1")
        assert other.ask(GET % running.bearer("new", is_known=False)) == 429
        assert other.ask(PROBE.replace(b"readyz", b"healthz")) == 200
        for each in good:
            assert each.ask(GET % running.bearer()) == 200
        # Which one probe occupies, the next one gets.
        assert client(opened, running).ask(PROBE) == 200
        address = good[0].socket.getsockname()
        good[0].socket.close()
        running.wait_for_the_end_of(address)
        assert client(opened, running).ask(GET % running.bearer()) == 200


def test_one_address_has_a_quarter_of_the_connections_without_credentials(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack
) -> None:
    with gateway(monkeypatch, max_connections=16) as running:
        other = client(opened, running, "127.0.0.2")
        many = [client(opened, running) for _ in range(4)]
        assert [each.ask(PROBE) for each in (other, *many)] == [200] * 5

        assert client(opened, running).ask(PROBE) == 200

        assert ends(many[0].socket)
        assert [each.ask(PROBE) for each in (other, *many[1:])] == [200] * 4


def test_the_connections_of_a_trusted_proxy_are_those_of_many(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack
) -> None:
    with gateway(monkeypatch, trusted_proxies=[ip_network("127.0.0.0/31")], max_connections=16) as running:
        many = [client(opened, running) for _ in range(16)]

        assert [each.ask(PROBE) for each in many] == [200] * 16


def test_handshakes_that_are_never_finished_do_not_hold_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: ExitStack
) -> None:
    served, trusting = tls(tmp_path)
    with gateway(monkeypatch, served, max_connections=4, spare_connections=1) as running:
        silent = [opened.enter_context(running.connect(f"127.0.0.{n}")) for n in range(2, 12)]
        plain = running.connect()

        with trusting.wrap_socket(plain, server_hostname="localhost") as good:
            assert Client(good).ask(GET % running.bearer()) == 200

        assert ends(silent[0])


@pytest.mark.parametrize("framing", [LENGTH, b"Transfer-Encoding: chunked\r\n"], ids=["length", "chunked"])
def test_a_stranger_is_refused_before_its_body_is_read(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack, framing: bytes
) -> None:
    """Here it never comes, from more strangers than may send bodies at a time."""
    with gateway(monkeypatch, max_in_flight=4) as running:
        running.backend.refusal = MissingCredentials()
        for _ in range(10):
            stranger = client(opened, running)
            assert stranger.ask(POST % (b"", framing)) == 401
            assert stranger.error == "MissingCredentials"
            assert stranger.headers[b"connection"] == b"close"
        running.backend.refusal = None
        assert client(opened, running).ask(POST % (running.bearer(), LENGTH) + BODY) == 200


def test_a_stranger_whose_body_is_here_keeps_its_connection(monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
    with gateway(monkeypatch) as running:
        running.backend.refusal = MissingCredentials()
        stranger = client(opened, running)

        assert [stranger.ask(POST % (b"", LENGTH) + BODY) for _ in range(3)] == [401] * 3


def test_who_is_refused_while_it_sends_can_read_why(monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
    with gateway(monkeypatch) as running:
        running.backend.refusal = MissingCredentials()
        stranger = client(opened, running)

        assert stranger.ask(POST % (b"", b"Content-Length: %d\r\n" % 2**20) + b"x" * (2**20 - 1)) == 401


def test_it_is_not_read_on_for_long(monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
    with gateway(monkeypatch, linger_seconds=DEADLINE_SECONDS) as running:
        running.backend.refusal = MissingCredentials()
        stranger = client(opened, running)
        assert stranger.ask(POST % (b"", b"Content-Length: %d\r\n" % 2**40)) == 401

        with pytest.raises(ConnectionError):
            stranger.socket.sendall(b"x" * 2**26)
    with gateway(monkeypatch, linger_seconds=0.2) as running:
        running.backend.refusal = MissingCredentials()
        stranger = client(opened, running)
        assert stranger.ask(POST % (b"", LENGTH)) == 401
        running.wait_for_the_end_of(stranger.socket.getsockname())


@pytest.mark.parametrize("seconds", [0.2, DEADLINE_SECONDS], ids=["it ends", "the server ends before"])
def test_over_tls_it_is_not_read_on_for_long_either(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack, tmp_path: Path, seconds: float
) -> None:
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    served, trusting = tls(tmp_path)
    with gateway(monkeypatch, served, linger_seconds=seconds) as running:
        running.backend.refusal = MissingCredentials()
        plain = opened.enter_context(running.connect())
        address = plain.getsockname()
        stranger = Client(opened.enter_context(trusting.wrap_socket(plain, server_hostname="localhost")))
        assert stranger.ask(POST % (b"", LENGTH)) == 401
        if seconds < DEADLINE_SECONDS:
            running.wait_for_the_end_of(address)
    assert not failures


def test_only_good_credentials_are_told_to_go_on(monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
    waiting = LENGTH + b"Expect: 100-continue\r\n"
    with gateway(monkeypatch) as running:
        good = client(opened, running)
        assert good.ask(POST % (running.bearer(), waiting)) == 100
        assert good.ask(BODY) == 200

        running.backend.refusal = MissingCredentials()
        stranger = client(opened, running)
        assert stranger.ask(POST % (b"", waiting)) == 401
        assert stranger.headers[b"connection"] == b"close"


def test_one_caller_has_a_quarter_of_the_places_for_bodies(monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
    with gateway(monkeypatch, max_in_flight=8) as running:
        jane, joe = running.bearer("jane"), running.bearer("joe")
        expecting = LENGTH + b"Expect: 100-continue\r\n"
        holding = [client(opened, running) for _ in range(2)]
        assert [each.ask(POST % (jane, expecting)) for each in holding] == [100, 100]

        refused = client(opened, running)
        assert refused.ask(POST % (jane, LENGTH) + BODY) == 429
        assert refused.error == "Overloaded"
        assert refused.ask(POST % (joe, LENGTH) + BODY) == 200
        assert refused.ask(GET % jane) == 200

        assert holding[0].ask(BODY) == 200
        assert refused.ask(POST % (jane, LENGTH) + BODY) == 200


def test_one_caller_has_a_quarter_of_the_bytes_for_bodies(monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
    kib = 2**10
    with gateway(monkeypatch, max_body_bytes=64 * kib, max_bytes_in_flight=256 * kib) as running:
        jane, joe = running.bearer("jane"), running.bearer("joe")
        large = b'{"name": "%s"}' % (b"x" * 40 * kib)
        length = b"Content-Length: %d\r\n" % len(large)
        running.backend.may_answer.clear()
        holding = client(opened, running)
        holding.socket.sendall(POST % (jane, length) + large)
        running.backend.asked.get(timeout=DEADLINE_SECONDS)

        refused = client(opened, running)
        assert refused.ask(POST % (jane, length) + large) == 429
        refused.socket.sendall(POST % (joe, length) + large)
        running.backend.may_answer.set()
        assert refused.status() == 200
        assert holding.status() == 200
        assert refused.ask(POST % (jane, length) + large) == 200


def held_looks(monkeypatch: pytest.MonkeyPatch, running: Gateway) -> tuple[queue.SimpleQueue[str], threading.Event]:
    """Let looks at tokens wait: each is put into the queue, and all go on with the event."""
    looks: queue.SimpleQueue[str] = queue.SimpleQueue()
    goes_on, verify = threading.Event(), running.verifier.verify

    def wait(authorization: str) -> Caller:
        looks.put(authorization)
        assert goes_on.wait(DEADLINE_SECONDS)
        return verify(authorization)

    monkeypatch.setattr(running.verifier, "verify", wait)
    return looks, goes_on


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_tokens_that_are_looked_at_are_few_for_each_address(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack, method: str
) -> None:
    def request(bearer: bytes) -> bytes:
        return GET % bearer if method == "GET" else POST % (bearer, LENGTH) + BODY

    with gateway(monkeypatch, max_unverified=8) as running:
        new, known = running.bearer("new", is_known=False), running.bearer()
        looks, goes_on = held_looks(monkeypatch, running)
        looked_at = [client(opened, running) for _ in range(2)]
        for each in looked_at:
            each.socket.sendall(request(new))
            looks.get(timeout=DEADLINE_SECONDS)

        refused = client(opened, running)
        assert refused.ask(request(new)) == 429
        assert refused.error == "Overloaded"
        elsewhere = client(opened, running, "127.0.0.2")
        elsewhere.socket.sendall(request(new))
        looks.get(timeout=DEADLINE_SECONDS)
        assert client(opened, running).ask(request(known)) == 200
        goes_on.set()
        assert [each.status() for each in (*looked_at, elsewhere)] == [200] * 3
        assert refused.ask(request(new)) == 200
        # What is no token at all is refused without a look.
        running.backend.refusal = MissingCredentials()
        assert client(opened, running).ask(request(b"")) == 401


def test_a_proxy_says_whose_tokens_are_looked_at(monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
    def request(forwarded_for: bytes) -> bytes:
        return GET % (running.bearer("new", is_known=False) + b"X-Forwarded-For: " + forwarded_for + b"\r\n")

    with gateway(monkeypatch, trusted_proxies=[ip_network("127.0.0.1")], max_unverified=4) as running:
        looks, goes_on = held_looks(monkeypatch, running)
        first, again, other, untrusted = (client(opened, running, f"127.0.0.{n}") for n in (1, 1, 1, 2))
        first.socket.sendall(request(b"203.0.113.1"))
        looks.get(timeout=DEADLINE_SECONDS)

        assert again.ask(request(b"198.51.100.7, 203.0.113.1")) == 429
        other.socket.sendall(request(b"203.0.113.1, 198.51.100.7"))
        # It is no proxy, so what it says does not count.
        untrusted.socket.sendall(request(b"203.0.113.1"))
        for _ in range(2):
            looks.get(timeout=DEADLINE_SECONDS)
        goes_on.set()
        assert [each.status() for each in (first, other, untrusted)] == [200] * 3


def test_a_connection_whose_token_is_looked_at_makes_no_room(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack
) -> None:
    with gateway(monkeypatch, max_connections=4, spare_connections=2) as running:
        running.backend.may_answer.clear()
        new = client(opened, running)
        new.socket.sendall(GET % running.bearer("new", is_known=False))
        running.backend.asked.get(timeout=DEADLINE_SECONDS)

        strangers = [client(opened, running, f"127.0.0.{n}") for n in range(2, 22)]
        assert strangers[-1].ask(PROBE) == 200
        # The server has found the token to be good, as the one here does not.
        running.verifier.verify(f"Bearer {running.token('new')}")
        running.backend.may_answer.set()

        assert new.status() == 200


def test_who_does_not_read_is_not_worked_for(monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
    """Nor is more taken in of what it asks for than one read brings."""
    with gateway(monkeypatch) as running:
        hoarder = client(opened, running)
        hoarder.socket.settimeout(0.5)
        sending = threading.Thread(target=_send_until_it_stops, args=(hoarder.socket, PROBE * 1000))
        sending.start()
        sending.join()

        assert client(opened, running).ask(PROBE) == 200


def _send_until_it_stops(connection: socket.socket, data: bytes) -> None:
    try:
        for _ in range(2**30 // len(data)):
            connection.sendall(data)
    except TimeoutError:
        return
    raise AssertionError("all was taken in")
