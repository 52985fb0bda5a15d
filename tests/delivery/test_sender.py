"""Webhooks go to public addresses alone, and to the very address that was looked at."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from server.core.addresses import Address, is_permitted, is_public
from server.core.webhooks import WebhookRules
from server.delivery.sender import LOOKUPS, WebhookSender
from server.storage.contract import AttemptEnd
from tests.certificates import Authority
from tests.delivery.conftest import Receive
from tests.delivery.receiver import Answer, Receiver
from tests.rpc.harness import WEBHOOKS

REFUSED = (
    *("0.0.0.0", "127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    # Metadata of clouds: link-local, shared, Azure's.
    *("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"),
    *("100.64.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "3fff::1", "100::1"),
    # The same as IPv4-mapped and IPv4-compatible ones, by NAT64, 6to4 and Teredo.
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1"),
    *("64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "64:ff9b:1::8.8.8.8"),
    *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::", "2001::f5ff:fffe"),
)
Speak: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
DONE = b"HTTP/1.1 204 No Content\r\n\r\n"
NOWHERE = "the name of its host stands for no address that webhooks may go to"
NOT_HTTP = "the connection ended, or what was answered is not HTTP"
PUBLIC = ("8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")


def send(
    url: str, allowed: WebhookRules = WEBHOOKS, headers: dict[str, str] | None = None, **options: object
) -> AttemptEnd:
    async def once() -> AttemptEnd:
        sender = WebhookSender(allowed, **options)  # type: ignore[arg-type]
        try:
            async with sender.connection() as receiver:
                return await receiver.send(url, headers or {}, b"{}")
        finally:
            sender.close()

    return asyncio.run(once())


def tls_of(authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a receiver serves with, which has a certificate of an authority, and what trusts that."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*authority.issue("receiver"))
    return serving, ssl.create_default_context(cafile=str(authority.cert))


def answered(speak: Speak) -> AttemptEnd:
    """Send something to a server that speaks so to whoever connects."""
    [end] = answered_in_turn(1, speak)
    return end


def answered_in_turn(times: int, *speak: Speak, authority: Authority | None = None) -> list[AttemptEnd]:
    """Send something to a server that speaks so on each connection, so many times over one as long as it is kept.

    With an authority, it is over TLS.
    """
    left = list(speak)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await left.pop(0)(reader, writer)

    async def in_turn() -> list[AttemptEnd]:
        serving, trusting = (None, None) if authority is None else tls_of(authority)
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=serving)
        url = f"http{'s' if serving else ''}://localhost:{server.sockets[0].getsockname()[1]}/"
        try:
            async with WebhookSender(WEBHOOKS, tls=trusting).connection() as receiver:
                return [await receiver.send(url, {}, b"{}") for _ in range(times)]
        finally:
            server.close()

    ends = asyncio.run(in_turn())
    assert left == [], "a connection that was not made"
    return ends


def answering(*answers: bytes) -> Speak:
    """What answers one request after the other with these, and then hangs up."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(answer)
            await writer.drain()
        writer.close()

    return speak


def keeping(answer: bytes, *more: bytes) -> Speak:
    """What answers every request with this, and keeps the connection; with more, as parts of TLS that come at once."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n{}")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
                for part in (answer, *more):
                    writer.write(part)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        writer.close()

    return speak


def resolving(*answers: list[str]) -> object:
    """A resolver that answers each look-up with the next of these, and the last one from then on."""
    left = list(answers)

    async def resolve(_: str) -> list[Address]:
        return [ipaddress.ip_address(each) for each in (left.pop(0) if len(left) > 1 else left[0])]

    return resolve


def test_only_public_addresses_are_public() -> None:
    assert [each for each in REFUSED if is_public(ipaddress.ip_address(each))] == []
    assert [each for each in PUBLIC if not is_public(ipaddress.ip_address(each))] == []


def test_a_network_that_the_operator_names_is_permitted_in_each_form_and_no_other_is() -> None:
    networks = [ipaddress.ip_network("10.0.0.0/8")]
    for permitted in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "8.8.8.8"):
        assert is_permitted(ipaddress.ip_address(permitted), networks), permitted
    for refused in ("11.0.0.0", "127.0.0.1", "::ffff:192.168.0.1"):
        assert is_permitted(ipaddress.ip_address(refused), networks) == (refused == "11.0.0.0"), refused


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"])
def test_nothing_is_sent_to_this_machine_unless_the_operator_permits_it(host: str, receive: Receive) -> None:
    receiver = receive()
    allowed = WebhookRules(allow_http=True, ports=frozenset({receiver.port}))
    end = send(f"http://{host}:{receiver.port}/", allowed)
    assert end.error == NOWHERE if host == "localhost" else "which is not public" in (end.error or "")
    assert receiver.is_idle


def test_a_name_that_changes_after_it_was_looked_up_leads_nowhere_else(receive: Receive) -> None:
    """It is looked up once: what it stands for when the connection is made is not asked."""
    receiver = receive()
    lookups = []

    async def rebinding(host: str) -> list[Address]:
        lookups.append(host)
        return [ipaddress.ip_address("127.0.0.1" if len(lookups) == 1 else "10.255.255.1")]

    end = send(f"http://rebinding.example:{receiver.port}/", resolve=rebinding)
    assert end.http_status == 204
    assert lookups == ["rebinding.example"]
    # The receiver is told the name.
    assert receiver.next().headers["host"] == f"rebinding.example:{receiver.port}"


def test_a_name_that_also_stands_for_a_refused_address_is_refused(receive: Receive) -> None:
    receiver = receive()
    end = send(f"http://mixed.example:{receiver.port}/", resolve=resolving(["127.0.0.1", "169.254.169.254"]))
    assert end.error is not None
    assert "169.254" not in end.error
    assert receiver.is_idle


def test_the_next_address_is_tried_where_nobody_listens(receive: Receive) -> None:
    receiver = receive()
    end = send(f"http://two.example:{receiver.port}/", resolve=resolving(["127.0.0.9", "127.0.0.1"]))
    assert end.http_status == 204


def test_proxies_of_the_environment_are_ignored(receive: Receive, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, receiver = receive(), receive()
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert send(receiver.url).http_status == 204
    assert proxy.is_idle


def test_the_certificate_must_be_that_of_the_name_and_not_of_the_address(receive: Receive, tmp_path: Path) -> None:
    serving, trusting = tls_of(Authority(tmp_path / "authority"))
    shown: list[str | None] = []
    serving.sni_callback = lambda _, name, __: shown.append(name)
    receiver = receive(tls=serving)

    good = send(f"https://localhost:{receiver.port}/", tls=trusting, resolve=resolving(["127.0.0.1"]))
    assert good.http_status == 204
    # It also names the address, which is not asked.
    other = send(f"https://other.example:{receiver.port}/", tls=trusting, resolve=resolving(["127.0.0.1"]))
    assert other.http_status is None
    assert "CERTIFICATE_VERIFY_FAILED" in (other.error or "")
    assert shown == ["localhost", "other.example"]
    assert send(f"https://localhost:{receiver.port}/", resolve=resolving(["127.0.0.1"])).http_status is None


def test_of_what_is_not_public_nothing_is_kept_but_the_status(receive: Receive) -> None:
    receiver = receive(lambda _: Answer(500, body=b"a secret"))
    end = send(receiver.url)
    assert (end.http_status, end.answer, end.error) == (500, None, None)


def test_a_receiver_that_speaks_no_http_is_not_quoted() -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    assert answered(speak).error == NOT_HTTP


def test_a_receiver_that_drips_its_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for all of it, however often something comes."""
    monkeypatch.setattr("server.delivery.sender.ANSWER_SECONDS", 0.5)

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not writer.is_closing():
            writer.write(b"x: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    assert "no answer within" in (answered(drip).error or "")


def test_a_host_that_stands_for_nothing_is_told_as_one_that_stands_for_what_is_refused() -> None:
    """Which names there are in a private network is not to be found out."""

    async def nothing(_: str) -> list[Address]:
        raise OSError("no such name")

    assert send("https://nowhere.example/", resolve=nothing).error == NOWHERE
    assert send("https://inside.example/", resolve=resolving(["10.0.0.1"])).error == NOWHERE


@pytest.mark.parametrize(
    "forever",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"set-cookie: a=b\r\n" * 100],
    ids=["100 Continue", "headers"],
)
def test_of_an_answer_without_end_only_so_much_is_read(forever: bytes) -> None:
    sent = 0

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(forever)
                sent += len(forever)
                await writer.drain()
        writer.close()

    assert answered(speak).error == "what was answered is longer than 16 KiB"
    # The rest is what the system takes before somebody reads.
    assert sent < 2**24


def test_a_redirect_that_leads_nowhere_is_told_by_its_status(receive: Receive) -> None:
    receiver = receive(lambda _: Answer(302, {"location": "http://[::1"}))
    assert send(receiver.url).http_status == 302


def test_a_url_is_in_no_line_of_the_log(receive: Receive, caplog: pytest.LogCaptureFixture) -> None:
    """There can be a secret in it."""
    caplog.set_level(logging.INFO)
    receiver = receive(lambda _: Answer(500))
    assert send(f"{receiver.url}/T0/SECRET?key=SECRET").http_status == 500
    assert receiver.next().path == "/hook/T0/SECRET?key=SECRET"
    assert "SECRET" not in caplog.text


def test_names_that_are_looked_up_for_long_leave_room_for_those_of_others(
    receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, may_end = socket.getaddrinfo, threading.Event()

    def slow(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(".slow.example"):
            may_end.wait()
            raise OSError
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    receiver = receive()

    async def beside() -> AttemptEnd:
        sender = WebhookSender(WEBHOOKS)
        try:
            slowly = (
                sender.connection().send(f"https://{n}.slow.example/", {}, b"{}", "user:slow") for n in range(LOOKUPS)
            )
            waiting.extend(map(asyncio.create_task, slowly))
            await asyncio.sleep(0)
            async with sender.connection() as quick:
                return await quick.send(f"http://localhost:{receiver.port}/", {}, b"{}", "user:quick")
        finally:
            may_end.set()
            for task in waiting:
                task.cancel()
            sender.close()

    waiting: list[asyncio.Task[AttemptEnd]] = []
    assert asyncio.run(beside()).http_status == 204


def test_what_the_operator_has_forbidden_since_is_not_sent(receive: Receive) -> None:
    receiver = receive()
    for allowed in (
        WebhookRules(ports=WEBHOOKS.ports, networks=WEBHOOKS.networks),
        WebhookRules(allow_http=True, networks=WEBHOOKS.networks),
    ):
        assert (send(receiver.url, allowed).error or "").startswith("its URL must")
    assert receiver.is_idle


def test_a_closed_port_is_a_failure() -> None:
    with Receiver() as closed:
        pass
    assert (send(closed.url).error or "").startswith("there was no connection")


def test_what_is_sent_in_turn_goes_over_one_connection_as_long_as_that_leads_there(receive: Receive) -> None:
    """Each answer may be as long as one alone; where a URL leads elsewhere, its name is looked up, and looked at."""
    receiver, other = (receive(lambda _: Answer(200, body=b"x" * 1000)) for _ in range(2))
    lookups = []

    async def resolve(host: str) -> list[Address]:
        lookups.append(host)
        return [ipaddress.ip_address("10.0.0.1" if host == "inside.example" else "127.0.0.1")]

    async def in_turn() -> list[AttemptEnd]:
        async with WebhookSender(WEBHOOKS, resolve=resolve).connection() as line:
            urls = [f"http://{name}.example:{receiver.port}/{n}" for name in ("one", "two") for n in range(20)]
            urls += [f"http://two.example:{other.port}/", f"http://inside.example:{receiver.port}/"]
            return [await line.send(url, {}, b"{}") for url in urls]

    *ends, last = asyncio.run(in_turn())
    assert {end.http_status for end in ends} == {200}
    assert last.error == NOWHERE
    assert (receiver.connections, other.connections) == (2, 1)
    assert lookups == ["one.example", "two.example", "two.example", "inside.example"]


def test_a_connection_that_the_receiver_has_closed_is_no_failure() -> None:
    """It may do so at any time; that it did may be seen only when the next webhook is under way."""
    ends = answered_in_turn(3, answering(DONE, b""), answering(DONE, DONE))
    assert [end.http_status for end in ends] == [204, 204, 204]


def test_a_webhook_that_was_answered_in_part_is_not_sent_again() -> None:
    ends = answered_in_turn(3, answering(DONE, b"HTTP/1.1 2"), answering(DONE))
    assert [end.http_status for end in ends] == [204, None, 204]
    assert ends[1].error == NOT_HTTP


def test_a_webhook_that_nobody_answers_is_sent_once_again_and_no_more() -> None:
    ends = answered_in_turn(2, answering(DONE, b""), answering(b""))
    assert [end.http_status for end in ends] == [204, None]


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (DONE, 1),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 1),
        (DONE + b"ok", 3),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\r\n", 3),
        (DONE + b"HTTP/1.1 500 No\r\n\r\n", 3),
        (DONE * 600, 3),
        (b"HTTP/1.1 102 Processing\r\n\r\n" + DONE, 3),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nstalls", 3),
        (b"HTTP/1.1 200 OK\r\n\r\nwithout an end", 3),
    ],
    ids=["clean", "a body", "one too much", "a line too much", "another", "many", "two heads", "a stall", "no end"],
)
def test_what_comes_behind_an_answer_is_not_taken_for_the_next_one(answer: bytes, connections: int) -> None:
    """Each webhook is answered by itself, as if it had a connection of its own; the status alone decides."""
    asked = 0
    speak = keeping(answer)

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await speak(reader, writer)

    ends = answered_in_turn(3, *[count] * connections)
    assert {end.http_status for end in ends} <= {200, 204}
    assert asked == connections


def test_nor_is_what_came_over_tls_and_was_not_read(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    late = b"HTTP/1.1 500 No\r\n\r\n"
    speak = keeping(DONE, late)
    ends = answered_in_turn(3, speak, speak, speak, authority=authority)
    assert [end.http_status for end in ends] == [204] * 3
    assert answered_in_turn(2, keeping(DONE), authority=Authority(tmp_path / "other"))[1].http_status == 204


def test_after_an_answer_that_is_not_read_to_its_end_another_connection_is_made() -> None:
    long = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000
    ends = answered_in_turn(2, answering(long), answering(DONE))
    assert [end.http_status for end in ends] == [200, 204]
