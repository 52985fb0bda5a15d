"""One HTTP connection: its requests are answered in their order, each within its limits.

It stands on asyncio and on the public parser of httptools, and not on a server like uvicorn, hypercorn or granian. How
long a head may take, what is read of a body before its credentials are good, which connection ends for another, and
that a trailer is no header, can only be settled where requests are parsed: there, these have no public place for it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import cache, lru_cache
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Scope

from server.core.errors import RegistryError, RequestTimeout
from server.core.uuids import new_uuid
from server.gateway.connection_table import ConnectionTable, Slot
from server.gateway.errors import refusal
from server.gateway.http1 import Head, Headers, RequestParser
from server.gateway.limits import HttpLimits
from server.gateway.proxies import TrustedProxies
from server.gateway.tls import TlsSession

# What is parsed at once, of clients with good credentials and of others. Each request in it, which can be one of a few
# bytes, then waits for its turn as what it has become, which is larger.
_PIECE_BYTES = 16 * 2**10
_STRANGERS_PIECE_BYTES = 512
# How much of a body waits here for the application, while the rest waits at the client.
_BUFFERED_BODY_BYTES = 64 * 2**10

_WITHOUT_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.BufferedProtocol):
    """Serves an application to one client, over TLS if there is a context for it."""

    def __init__(
        self,
        app: ASGIApp,
        table: ConnectionTable,
        limits: HttpLimits,
        proxies: TrustedProxies,
        tls: ssl.SSLContext | None,
    ):
        self._app = app
        self._table = table
        self._limits = limits
        self._proxies = proxies
        self._tls = TlsSession(tls) if tls else None
        self._loop = asyncio.get_running_loop()
        self._client: tuple[str, int] | None = None
        self._slot: Slot
        self._transport: asyncio.Transport
        self._parser = RequestParser(self, limits.max_head_bytes)
        self._unparsed = b""
        # The first one is being answered; those behind it came in the same piece.
        self._exchanges: deque[Exchange] = deque()
        self._refusal: RegistryError | None = None  # of what came behind them
        self._is_last = False  # No request follows these.
        self._has_sent_all = False  # The client has; it may wait for answers.
        self._is_finishing = False
        self._is_ending = False  # Nothing is parsed or answered any more.
        self._ignored_bytes = 0
        self._can_write = True
        self._timer = Timer(self._loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a slot, and wait for the first request."""
        self._transport = transport
        host, port, *_ = transport.get_extra_info("peername") or ("", 0)  # None if the client is gone already
        self._client = (host, port)
        self._slot = self._table.enter(self, self._proxies.group_of_peer(host))
        self.step()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the slot back; requests that are still being answered see a disconnect."""
        self._end()
        self._timer.stop()
        self._parser.close()
        self._table.leave(self._slot)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer that all connections of the loop share."""
        return self._table.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Go on with a request."""
        if self._is_ending:
            self._ignored_bytes += nbytes
            if self._ignored_bytes > self._limits.max_body_bytes:
                self.abort()
            return
        data = bytes(self._table.buffer[:nbytes])
        try:
            self._unparsed += data if self._tls is None else self._tls.receive(data)
        except ssl.SSLError:  # such as that of a client that speaks no TLS, or does not trust the certificate
            self._hang_up()
            return
        if self._tls is not None:
            self._transport.write(self._tls.sent())
            if self._tls.has_ended:
                self._hang_up()
        self.step()

    def eof_received(self) -> bool:
        """Keep the connection if the client waits for answers, which over TLS is not possible."""
        self._has_sent_all = True
        waits = bool(self._exchanges) and self._exchanges[0].is_complete and self._tls is None
        return waits and not self._is_ending

    def pause_writing(self) -> None:
        """Answer no more requests until the client has read."""
        self._can_write = False

    def resume_writing(self) -> None:
        """Go on with the answer that is being sent, or with the next request."""
        self._can_write = True
        if self._exchanges:
            self._exchanges[0].notify()
        self.step()

    @property
    def is_full(self) -> bool:
        """Whether the client has to read before more is sent."""
        return not self._can_write

    def abort(self) -> None:
        """End now."""
        self._is_ending = True
        self._transport.abort()

    def finish(self) -> None:
        """End when the request that is under way is answered."""
        self._is_finishing = True
        if not self._exchanges:
            self._hang_up()

    def step(self) -> None:
        """Do all that can be done now: answer what has arrived, and parse as much of the rest as is wanted."""
        while not self._is_ending:
            front = self._exchanges[0] if self._exchanges else None
            if front is not None and not front.is_begun and self._can_write:
                front.is_begun = True
                task = self._loop.create_task(self._answer(front))
                self._table.tasks.add(task)
                task.add_done_callback(self._table.tasks.discard)
            if not (self._unparsed and self._wants_more(front)):
                break
            self._parse_some()
        else:
            return
        if front is None and self._refusal is not None:
            self.write(refusal_of(self._refusal))
            self._linger()
        elif front is None and (self._is_last or self._has_sent_all):
            self._hang_up()
        else:
            self._wait(front)
            self._read(front)

    def on_head(self, head: Head) -> None:
        """Let a request wait for its turn."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": head.http_version,
            "method": head.method,
            "scheme": "http" if self._tls is None else "https",
            "path": head.path.decode("ascii"),
            "raw_path": head.path,
            "root_path": "",
            "query_string": head.query,
            "headers": head.headers,
            "client": self._client,
            "state": {"slot": self._slot},
        }
        self._exchanges.append(Exchange(self, head, scope))

    def on_body(self, part: bytes) -> None:
        """Hand on some of the newest request's body."""
        self._exchanges[-1].take(part)

    def on_end(self) -> None:
        """Complete the newest request, which may have been answered already."""
        newest = self._exchanges[-1]
        newest.complete()
        self._is_last = not newest.keeps_connection
        if newest.is_answered:
            self._exchanges.popleft()

    def write(self, data: bytes) -> None:
        """Send these bytes, unless the connection has ended."""
        if self._is_ending:
            return
        if self._tls is not None:
            self._tls.send(data)
            data = self._tls.sent()
        self._transport.write(data)

    def keeps_open_after(self, exchange: Exchange) -> bool:
        """Whether another request can follow this one: what is left of its body is read for good credentials alone."""
        reads_on = self._slot.is_authenticated and not exchange.is_waited_for
        return exchange.keeps_connection and not self._is_finishing and (exchange.is_complete or reads_on)

    def on_answered(self, exchange: Exchange) -> None:
        """Go on to the next request, when this one has arrived as a whole."""
        if exchange.is_complete:
            self._exchanges.popleft()
        if exchange.keeps_connection:
            self.step()
        elif exchange.is_complete:
            self._hang_up()
        else:
            self._linger()

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        finally:
            if not exchange.is_answered and exchange in self._exchanges:
                self.abort()

    def _wants_more(self, front: Exchange | None) -> bool:
        """Whether more is to be parsed, before the request is answered that is being answered."""
        if front is None:
            return self._can_write and not self._is_last and self._refusal is None
        return not front.is_complete and front.takes_more

    def _parse_some(self) -> None:
        size = _PIECE_BYTES if self._slot.is_authenticated else _STRANGERS_PIECE_BYTES
        piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
        try:
            self._parser.feed(piece)
        except RegistryError as error:
            if not self._is_last:  # What follows the last request is none.
                self._break_off(error)

    def _break_off(self, error: RegistryError) -> None:
        """Parse no more. What is arriving is refused when the requests before it are answered."""
        self._unparsed = b""
        self._is_last = True
        self._refusal = error
        if self._exchanges and not self._exchanges[-1].is_complete:
            broken = self._exchanges.pop()
            broken.disconnect()
            if broken.is_answered:  # A second answer would confuse.
                self._hang_up()

    def _linger(self) -> None:
        """Hang up, but read on a little: an end before all is read could reach the client before the answer."""
        if self._has_sent_all:
            self._hang_up()
            return
        self._end()
        self._end_tls()
        self._transport.write_eof()
        self._transport.resume_reading()
        self._timer.start("linger", self._limits.linger_seconds, self._hang_up)

    def _hang_up(self) -> None:
        """End when the client has read all that it was sent, or has had its time for it."""
        self._end()
        self._end_tls()
        self._transport.close()
        self._timer.start("end", self._limits.answer_seconds, self.abort)

    def _end(self) -> None:
        self._is_ending = True
        self._unparsed = b""
        for exchange in self._exchanges:
            exchange.disconnect()
        self._exchanges.clear()

    def _end_tls(self) -> None:
        # After the end of writing, to write even nothing is an error.
        if self._tls is not None and (last := self._tls.end()):
            self._transport.write(last)

    def _read(self, front: Exchange | None) -> None:
        """Read no more than can be parsed; but while a request is answered, so as to see that its client is gone."""
        if self._unparsed or (front is not None and not front.is_complete and not front.takes_more):
            self._transport.pause_reading()
        elif not self._has_sent_all:
            self._transport.resume_reading()

    def _wait(self, front: Exchange | None) -> None:
        """Wait for what comes next, as long as there is time for it."""
        limits = self._limits
        if not self._can_write:
            self._timer.start("reader", limits.answer_seconds, self.abort)
        elif front is not None and front.is_complete:
            self._timer.stop()  # The application bounds the time that it takes.
        elif front is not None:
            self._timer.start(front, limits.body_seconds, self._late)
        elif self._parser.has_begun:
            self._timer.start("head", limits.head_seconds, self._late)
        elif self._transport.get_write_buffer_size():
            self._timer.start("unsent", limits.answer_seconds, self._check_unsent)
        else:
            self._timer.start("idle", limits.idle_seconds, self._hang_up)

    def _late(self) -> None:
        self._break_off(RequestTimeout())
        self.step()

    def _check_unsent(self) -> None:
        if self._transport.get_write_buffer_size():
            self.abort()
        else:
            self.step()


class Exchange:
    """A request, which may still be arriving, and its answer."""

    def __init__(self, connection: Connection, head: Head, scope: Scope):
        self._connection = connection
        self._head = head
        self.scope = scope
        self.is_begun = False  # by the application
        self.is_complete = False  # has arrived as a whole
        self.is_answered = False
        self.keeps_connection = head.keeps_connection
        self._is_over = False  # answered, or its client is gone
        self._has_told_all = False  # of the body, to the application
        self._owes_continue = head.expects_continue
        self._body = bytearray()
        self._news = asyncio.Event()
        self._start: Message = {}
        self._is_in_parts = False

    @property
    def takes_more(self) -> bool:
        """Whether more of its body can be taken now."""
        return self.is_answered or len(self._body) < _BUFFERED_BODY_BYTES

    @property
    def is_waited_for(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body."""
        return self._owes_continue and not self.is_complete

    def take(self, part: bytes) -> None:
        """Take some of the body, or drop it, if the request is answered already."""
        if not self.is_answered:
            self._owes_continue = False
            self._body += part
            self._news.set()

    def complete(self) -> None:
        """Say that all of the body has arrived."""
        self.is_complete = True
        self._news.set()

    def notify(self) -> None:
        """Say that something has changed that is waited for."""
        self._news.set()

    def disconnect(self) -> None:
        """Say that its client is gone."""
        self._is_over = True
        self._news.set()

    async def receive(self) -> Message:
        """Return some of the body, or that the client is gone."""
        if not self._has_told_all:
            if self.is_waited_for:
                self._owes_continue = False
                self._connection.write(_CONTINUE)
            while not (self._body or self.is_complete or self._is_over):
                await self._wait()
            if not self._is_over:
                body, self._body = bytes(self._body), bytearray()
                self._has_told_all = self.is_complete
                if not self.is_complete:
                    self._connection.step()
                return {"type": "http.request", "body": body, "more_body": not self._has_told_all}
        while not self._is_over:
            await self._wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take the beginning of the answer, and then its body; of a part of it, return when it may be followed.

        With the end of an answer in parts, the connection ends: there is no other sign of it.
        """
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._is_over:
            return
        is_last = not message.get("more_body", False)
        answer = b""
        if not self._is_in_parts:
            self._is_in_parts = not is_last
            self.keeps_connection = is_last and self._connection.keeps_open_after(self)
            status = self._start["status"]
            answer = _head_of(status, self._start["headers"], keeps_connection=self.keeps_connection)
        if self._head.method != "HEAD" and self._start["status"] not in _WITHOUT_BODY:
            answer += message["body"]
        self._connection.write(answer)
        if not is_last:
            while self._connection.is_full and not self._is_over:
                # The client has its time to read it.
                self._connection.step()
                await self._wait()
            return
        self.is_answered = self._is_over = True
        self._body = bytearray()
        self._news.set()
        self._connection.on_answered(self)

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()


class Timer:
    """Bounds what a connection waits for, one wait at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._what: object = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self, what: object, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` in so many seconds, unless the wait ends or another one begins; one for the same goes on."""
        if what != self._what:
            self.stop()
            self._what, self._handle = what, self._loop.call_later(seconds, then)

    def stop(self) -> None:
        """End the wait."""
        self._what = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def refusal_of(error: RegistryError) -> bytes:
    """Return the answer to what is no request, after which the connection ends; it is logged."""
    request_id = new_uuid()
    answer = refusal(request_id, error, "HTTP", is_repeatable=False)
    body = json.dumps(answer.body, ensure_ascii=False).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": request_id,
        **answer.headers,
    }
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    return _head_of(answer.http_status, lines, keeps_connection=False) + body


def _head_of(status: int, headers: Iterable[tuple[bytes, bytes]], *, keeps_connection: bool) -> bytes:
    lines: Headers = [*headers, (b"date", _date(int(time.time())))]
    if not keeps_connection:
        lines.append((b"connection", b"close"))
    return b"%s%s\r\n" % (_status_line(status), b"".join([b"%s: %s\r\n" % line for line in lines]))


@cache
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()


@lru_cache(maxsize=1)
def _date(seconds: int) -> bytes:
    return formatdate(seconds, usegmt=True).encode()
