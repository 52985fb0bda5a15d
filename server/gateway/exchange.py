"""One request and its answer, as ASGI has them, for applications that answer in one piece."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterable
from email.utils import formatdate
from functools import cache, lru_cache
from http import HTTPStatus
from typing import Protocol

from starlette.types import Message, Scope

from server.core.errors import RegistryError
from server.gateway.errors import refusal
from server.gateway.http1 import Head, Headers

# How much of a body waits here for the application, while the rest waits at the client.
BUFFERED_BODY_BYTES = 64 * 2**10

_WITHOUT_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Wire(Protocol):
    """The connection of an exchange."""

    def write(self, data: bytes) -> None:
        """Send these bytes, unless the connection has ended."""

    def step(self) -> None:
        """Go on with what can be done now."""

    def keeps_open_after(self, exchange: Exchange) -> bool:
        """Whether another request can follow this one."""

    def on_answered(self, exchange: Exchange) -> None:
        """Go on, since this has been answered."""


class Exchange:
    """A request, which may still be arriving, and its answer."""

    def __init__(self, wire: Wire, head: Head, scope: Scope):
        self._wire = wire
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

    @property
    def takes_more(self) -> bool:
        """Whether more of its body can be taken now."""
        return self.is_answered or len(self._body) < BUFFERED_BODY_BYTES

    @property
    def is_waited_for(self) -> bool:
        """Whether the client waits with its body for a word that it has not got."""
        return self._owes_continue and not self.is_complete

    def take(self, part: bytes) -> None:
        """Take some of the body, or leave it, if no one will read it."""
        if not self.is_answered:
            self._owes_continue = False
            self._body += part
            self._news.set()

    def complete(self) -> None:
        """Say that all of the body has arrived."""
        self.is_complete = True
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
                self._wire.write(_CONTINUE)
            while not (self._body or self.is_complete or self._is_over):
                await self._wait()
            if not self._is_over:
                body, self._body = bytes(self._body), bytearray()
                self._has_told_all = self.is_complete
                if not self.is_complete:
                    self._wire.step()
                return {"type": "http.request", "body": body, "more_body": not self._has_told_all}
        while not self._is_over:
            await self._wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take the beginning of the answer, and then its body."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message.get("more_body", False):
            raise NotImplementedError("answers are sent in one piece")
        if self._is_over:
            return
        self.keeps_connection = self._wire.keeps_open_after(self)
        status = self._start["status"]
        answer = _head_of(status, self._start["headers"], keeps_connection=self.keeps_connection)
        if self._head.method != "HEAD" and status not in _WITHOUT_BODY:
            answer += message["body"]
        self._wire.write(answer)
        self.is_answered = self._is_over = True
        self._body = bytearray()
        self._news.set()
        self._wire.on_answered(self)

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()


def refusal_of(error: RegistryError) -> bytes:
    """Return the answer to what is no request, after which the connection ends; it is logged."""
    request_id = str(uuid.uuid4())
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
