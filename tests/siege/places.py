"""How attackers take their places and keep them: calls over HTTP/2, or whatever bytes over TCP.

One that the server has turned away comes again in its turn, as fast as its attack allows.
"""

from __future__ import annotations

import asyncio
import os
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.siege.http2 import DEFAULT_WINDOW, Headers, Http2Connection

# All together; so many are no load for a server, however long they go on.
AGAIN_PER_SECOND = 50.0

_CONNECT_SECONDS = 10.0
# So many connect at a time, so that none of them is lost on the way.
_CONNECTING = 128
# An attacker that could send no more for so long has sent what the server takes.
_QUIET_SECONDS = 2.0
# How often calls are begun and given up.
_RESETTING_SECONDS = 0.01


@dataclass(frozen=True)
class Calls:
    """So many gRPC calls, on as few connections as the server and `per_connection` allow.

    `message_bytes` is the length of the message that each announces; None for HEADERS and nothing more. The last byte
    never comes, unless the message `is_complete`. With `forges`, each call has a token of its own: the given one with
    another signature. A `window_bytes` of 0 takes no answer.
    """

    address: str
    path: str
    count: int
    token: str | None = None
    forges: bool = False
    message_bytes: int | None = None
    is_complete: bool = False
    window_bytes: int = DEFAULT_WINDOW
    per_connection: int = 100
    again_per_second: float = AGAIN_PER_SECOND

    def begin(self, ends: Counter[str]) -> Callers:
        """Return who makes the calls, inside an event loop."""
        return Callers(self, ends)

    def headers(self) -> Headers:
        """The headers of the next call."""
        token = self.token
        if token is not None and self.forges:
            token = f"{token.rpartition('.')[0]}.{_random_signature()}"
        return _headers(self.address, self.path, token)


@dataclass(frozen=True)
class Resets:
    """So many connections, on which calls are begun and at once given up, so many a second in all."""

    address: str
    path: str
    count: int
    per_second: int
    token: str | None = None

    def begin(self, ends: Counter[str]) -> Resetters:
        """Return who makes the calls, inside an event loop."""
        return Resetters(self, ends)


@dataclass(frozen=True)
class Connections:
    """So many TCP connections, each of which sends the same bytes and then nothing."""

    address: str
    count: int
    sends: bytes = b""
    again_per_second: float = AGAIN_PER_SECOND

    def begin(self, ends: Counter[str]) -> Senders:
        """Return who connects, inside an event loop."""
        return Senders(self, ends)


class Attackers:
    """The attackers of one kind; `ends` counts how the server ended what they had."""

    goaways = 0

    def __init__(self, count: int, again_per_second: float, ends: Counter[str]):
        self._count = count
        self._pause = 1 / again_per_second if again_per_second else None
        self._ends = ends
        self._away: asyncio.Queue[None] = asyncio.Queue()

    @property
    def standing(self) -> int:
        """How many have their places."""
        raise NotImplementedError

    async def come(self) -> None:
        """Let all come, and send what the server takes."""
        await asyncio.gather(*(self._come() for _ in range(self._count)))
        await self._taken()
        unsent, quiet = -1, 0.0
        while self._unsent() and quiet < _QUIET_SECONDS:
            await asyncio.sleep(0.1)
            quiet = quiet + 0.1 if self._unsent() == unsent else 0.0
            unsent = self._unsent()

    async def come_again(self) -> None:
        """Let those come again that were turned away, for ever."""
        while self._pause is not None:
            await self._away.get()
            await self._come()
            await asyncio.sleep(self._pause)

    def _end(self, how: str) -> None:
        self._ends[how] += 1
        self._away.put_nowait(None)

    async def _come(self) -> None:
        """Take a place, or `_end`."""
        raise NotImplementedError

    async def _taken(self) -> None:
        """Return once the server has taken those that came, as far as this can be known."""

    def _unsent(self) -> int:
        """How many bytes the server has not let them send."""
        raise NotImplementedError


class Callers(Attackers):
    """They make calls."""

    def __init__(self, calls: Calls, ends: Counter[str]):
        super().__init__(calls.count, calls.again_per_second, ends)
        self._calls = calls
        self._address = _parts(calls.address)
        self._connections: list[Http2Connection] = []
        self._connecting: asyncio.Task[None] | None = None
        length = calls.message_bytes
        self._begin = b"" if length is None else b"\0" + length.to_bytes(4, "big")
        self._zeros = (length or 0) if calls.is_complete else max(0, (length or 0) - 1)

    @property
    def standing(self) -> int:
        """How many calls stand."""
        return sum(connection.open_streams for connection in self._connections)

    async def _come(self) -> None:
        try:
            connection = await self._with_room()
        except (OSError, TimeoutError):
            self._end("not connected")
            return
        connection.open(self._calls.headers(), self._begin, self._zeros, ends=self._calls.is_complete)

    async def _with_room(self) -> Http2Connection:
        while True:
            for connection in reversed(self._connections):
                most = min(connection.max_streams, self._calls.per_connection)
                if not (connection.closed or connection.goes_away) and connection.open_streams < most:
                    return connection
            # All who find no room wait for the same connection.
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect())
            await asyncio.shield(self._connecting)

    async def _connect(self) -> None:
        made = partial(Http2Connection, self._end, self._goaway, self._calls.window_bytes)
        connection = await _connected(made, self._address)
        self._connections = [*(each for each in self._connections if not each.closed), connection]

    def _goaway(self) -> None:
        self.goaways += 1

    async def _taken(self) -> None:
        waiting = (connection.taken(_CONNECT_SECONDS) for connection in self._connections)
        await asyncio.gather(*waiting, return_exceptions=True)

    def _unsent(self) -> int:
        return sum(connection.unsent for connection in self._connections)


class Resetters(Attackers):
    """They begin calls and give them up."""

    def __init__(self, resets: Resets, ends: Counter[str]):
        super().__init__(resets.count, 0, ends)
        self._address = _parts(resets.address)
        self._headers = _headers(resets.address, resets.path, resets.token)
        self._at_a_time = round(resets.per_second * _RESETTING_SECONDS / resets.count)
        self._connections: set[Http2Connection] = set()

    @property
    def standing(self) -> int:
        """How many connections stand."""
        return sum(not connection.closed for connection in self._connections)

    async def come_again(self) -> None:
        """Begin calls and give them up, for ever, as fast as the server reads; over a new connection if it hangs up."""
        while True:
            for connection in tuple(self._connections):
                if connection.closed or connection.goes_away:
                    self._connections.remove(connection)
                elif not connection.is_behind:
                    connection.open_and_reset(self._headers, self._at_a_time)
            for _ in range(self._count - len(self._connections)):
                await self._come()
            await asyncio.sleep(_RESETTING_SECONDS)

    async def _come(self) -> None:
        made = partial(Http2Connection, self._end, self._goaway)
        try:
            self._connections.add(await _connected(made, self._address))
        except (OSError, TimeoutError):
            self._end("not connected")

    def _goaway(self) -> None:
        self.goaways += 1

    def _unsent(self) -> int:
        return 0


class Senders(Attackers):
    """They connect, send, and wait."""

    def __init__(self, connections: Connections, ends: Counter[str]):
        super().__init__(connections.count, connections.again_per_second, ends)
        self._sends = connections.sends
        self._address = _parts(connections.address)
        self._gate = asyncio.Semaphore(_CONNECTING)
        self._open: set[_Sender] = set()

    @property
    def standing(self) -> int:
        """How many connections stand."""
        return len(self._open)

    async def _come(self) -> None:
        try:
            async with self._gate:
                connecting = asyncio.get_running_loop().create_connection(self._sender, *self._address)
                await asyncio.wait_for(connecting, _CONNECT_SECONDS)
        except (OSError, TimeoutError):
            self._end("not connected")

    def _sender(self) -> _Sender:
        return _Sender(self._sends, self._open, self._end)

    def _unsent(self) -> int:
        return sum(sender.unsent for sender in self._open)


class _Sender(asyncio.Protocol):
    """One connection, among those that are open until the server answers it in HTTP, or closes it."""

    def __init__(self, sends: bytes, among: set[_Sender], ended: Callable[[str], None]):
        self._sends = sends
        self._among = among
        self._ended = ended
        self._received = b""

    @property
    def unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._among.add(self)
        transport.write(self._sends)

    def data_received(self, data: bytes) -> None:
        if len(self._received) < len(b"HTTP/1.1 200"):
            self._received += data

    def connection_lost(self, _: Exception | None) -> None:
        self._among.discard(self)
        version, _, rest = self._received.partition(b" ")
        self._ended(f"HTTP {rest[:3].decode('latin-1')}" if version == b"HTTP/1.1" else "closed")


async def _connected(made: Callable[[], Http2Connection], address: tuple[str, int]) -> Http2Connection:
    """Return a new connection, once the server has said what it allows. Raises OSError, TimeoutError."""
    connecting = asyncio.get_running_loop().create_connection(made, *address)
    _, connection = await asyncio.wait_for(connecting, _CONNECT_SECONDS)
    await connection.settled(_CONNECT_SECONDS)
    return connection


def _headers(address: str, path: str, token: str | None) -> Headers:
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", address),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    return headers if token is None else [*headers, ("authorization", f"Bearer {token}")]


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _random_signature() -> str:
    return urlsafe_b64encode(os.urandom(64)).rstrip(b"=").decode()
