"""HTTP/1.1 within bounds: how large a request's head may be, and how long a client may take.

uvicorn bounds how long a connection may be idle after an answer, and nothing else; and it answers bytes that are not
HTTP with plain text. Before its first request, a connection may be idle for as long: load balancers open some ahead.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import Overloaded, RegistryError, RequestTimeout
from server.gateway.errors import MalformedHttpRequest, RequestHeadersTooLarge, refusal
from server.gateway.probes import PROBES

MAX_CONNECTIONS = 2048
# Beyond them, for probes alone: that many clients are connected is no reason to restart the server.
PROBE_CONNECTIONS = 64
# A token with many groups, and as much again.
MAX_HEAD_BYTES = 32 * 2**10
HEAD_SECONDS = 10.0
BODY_SECONDS = 60.0
ANSWER_SECONDS = 120.0


# The parser would take such a request for the end of HTTP, and its body for the next one.
_UPGRADE = re.compile(rb"(?<=\r\n)upgrade(?=[ \t]*:)", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Whatever a client does or fails to do, it ends within these bounds."""

    _timer: asyncio.TimerHandle | None = None
    _in_head = True  # of a request, or before it
    _head_has_begun = False
    _head_bytes = 0
    _bytes_without_body = 0  # since a head: trailers, or what stands around chunks
    _began_or_had_body = False  # in the bytes that are being parsed
    _is_for_probes = False
    _refusal: RegistryError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS + PROBE_CONNECTIONS:
            self._refuse(Overloaded())
        elif len(self.connections) > MAX_CONNECTIONS:
            self._is_for_probes = True
            self._wait_at_most(HEAD_SECONDS)
        else:
            self._idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Go on with a request; the parser would keep a single header or trailer of any size."""
        if self._in_head and _UPGRADE.search(data):
            # Nobody has to follow an offer of another protocol.
            head, end, rest = data.partition(_END_OF_HEAD)
            data = _UPGRADE.sub(b"ignored", head) + end + rest
        self._began_or_had_body = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._in_head:
            self._bytes_without_body = 0 if self._began_or_had_body else self._bytes_without_body + len(data)
        elif not self._began_or_had_body:
            if self._head_bytes == 0:
                self._wait_at_most(HEAD_SECONDS)  # Blank lines begin no request, but end the wait for one.
            self._head_bytes += len(data)
        if max(self._head_bytes, self._bytes_without_body) > MAX_HEAD_BYTES:
            self._refuse(RequestHeadersTooLarge())

    def eof_received(self) -> bool:  # type: ignore[override]
        """Go on, if the client has sent all that it wanted to send, and waits for the answer."""
        waits = self.scheme == "http" and self._owes_an_answer()
        if waits:
            self.cycle.keep_alive = False
        return waits

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_head, self._head_has_begun, self._head_bytes = True, True, 0
        self._began_or_had_body = True
        self._wait_at_most(HEAD_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, without the blanks behind it, which the parser leaves; a trailer comes too late to be one."""
        if self._in_head:
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._in_head = self._head_has_begun = False
        self._bytes_without_body = self._head_bytes = 0
        if sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.url) > MAX_HEAD_BYTES:
            self._refusal = RequestHeadersTooLarge()
            raise ValueError  # which the parser makes a call of `send_400_response`
        if self.parser.should_upgrade():
            raise ValueError
        if self._is_for_probes and self.url.partition(b"?")[0].decode("latin-1") not in PROBES:
            self._refusal = Overloaded()
            raise ValueError
        self._wait_at_most(BODY_SECONDS)
        super().on_headers_complete()
        if self._is_for_probes:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._began_or_had_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Go on to the answer, or to the next request if this one was answered before it had arrived."""
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait_for_reader()
            self._in_head = True
            self._idle()
        else:
            self._wait_at_most(ANSWER_SECONDS)
        self._head_bytes = 0

    def on_response_complete(self) -> None:
        """Go on to the next request, unless the body of this one is still on its way."""
        if self._head_has_begun:
            self._wait_at_most(HEAD_SECONDS)
        elif not self.cycle.more_body:
            self._wait_for_reader()
            self._in_head = True
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection without requests, also one whose client does not read: that would hold it up."""
        super().timeout_keep_alive_handler()
        if self._timer is None:
            self._wait_for_reader()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request, or was refused while it was parsed."""
        self._refuse(self._refusal or MalformedHttpRequest())

    def _refuse(self, error: RegistryError) -> None:
        """Answer and hang up; only hang up where the client would take this for the answer to an earlier request."""
        request_id = str(uuid.uuid4())
        answer = refusal(request_id, error, "HTTP", is_repeatable=False)
        body = json.dumps(answer.body, ensure_ascii=False).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            "X-Request-Id": request_id,
            **answer.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        status = HTTPStatus(answer.http_status)
        if not (self._owes_an_answer() or self._answered_early()):
            self.transport.write(f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n".encode() + body)
        self.transport.close()
        self._wait_for_reader()

    def _idle(self) -> None:
        """Wait for a request, until uvicorn ends the connection; its first byte ends the wait."""
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _wait_at_most(self, seconds: float) -> None:
        self._wait_no_more()
        self._timer = self.loop.call_later(seconds, self._tired)

    def _wait_for_reader(self) -> None:
        """Bound how long an answer lies here, which uvicorn is done with, and how long a connection takes to end."""
        self._wait_no_more()
        self._timer = self.loop.call_later(ANSWER_SECONDS, self._hang_up_on_who_does_not_read)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tired(self) -> None:
        if self._hang_up_on_who_does_not_read():
            return
        if self._owes_an_answer():
            self._wait_at_most(ANSWER_SECONDS)  # The server behind us bounds how long it takes.
        else:
            self._refuse(Overloaded() if self._is_for_probes else RequestTimeout())

    def _owes_an_answer(self) -> bool:
        """Whether a request has arrived as a whole and is not answered; the newest may wait for its turn in a queue."""
        cycle: Any = self.cycle
        arrived = cycle is not None and not cycle.response_complete and not cycle.more_body
        return arrived or bool(self.pipeline)

    def _answered_early(self) -> bool:
        """Whether the answer to a request has begun that has not arrived as a whole: a second one would confuse."""
        return self.cycle is not None and self.cycle.response_started and self.cycle.more_body

    def _hang_up_on_who_does_not_read(self) -> bool:
        """Hang up if bytes wait for the client to read them: until then, an orderly end would wait, too."""
        self._timer = None
        unread = self.transport.is_closing() or self.transport.get_write_buffer_size() > 0
        if unread:
            self.transport.abort()
        return unread
