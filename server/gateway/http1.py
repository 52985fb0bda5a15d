"""HTTP/1.1 as it is parsed: bytes become requests. The parser is llhttp, which httptools binds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import httptools

from server.core.errors import FieldViolation, RegistryError
from server.gateway.errors import MalformedHttpRequest, RequestHeadersTooLarge

Headers = list[tuple[bytes, bytes]]

# RFC 3986: an address of IPv6 in brackets, or a name or address; then the port.
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]+)(?::[0-9]*)?")


@dataclass(frozen=True)
class Head:
    """The beginning of a request; names of headers are in lower case."""

    method: str
    path: bytes
    query: bytes
    http_version: str
    headers: Headers
    keeps_connection: bool
    expects_continue: bool


class Handler(Protocol):
    """Takes requests, in the order of their bytes."""

    def on_head(self, head: Head) -> None:
        """A request begins."""

    def on_body(self, part: bytes) -> None:
        """Some of its body."""

    def on_end(self) -> None:
        """It is complete."""


class RequestParser:
    """Parses what a client sends on one connection, and keeps no more of it than the head of one request."""

    def __init__(self, handler: Handler, max_head_bytes: int):
        self._handler = handler
        self._max_head_bytes = max_head_bytes
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: Headers = []
        self._in_head = True  # of a request, or before it
        self._offers_upgrade = False
        # Of a head, or, in a body, of what stands around its parts: extensions of chunks, and trailers.
        self._overhead = 0

    @property
    def has_begun(self) -> bool:
        """Whether something of a head has arrived that is not complete yet, if only a blank line before it."""
        return self._in_head and self._overhead > 0

    def feed(self, data: bytes) -> None:
        """Parse these bytes. Raises MalformedHttpRequest and RequestHeadersTooLarge, which end the parsing."""
        while data:
            self._overhead += len(data)
            try:
                if self._parser is not None:
                    self._parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                found = error.__context__
                raise found if isinstance(found, RegistryError) else MalformedHttpRequest() from None
        if self._overhead > self._max_head_bytes:
            raise RequestHeadersTooLarge

    def close(self) -> None:
        """Parse no more; this leaves nothing for the garbage collector."""
        self._parser = None

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._url, self._headers, self._overhead, self._in_head = b"", [], 1, True

    def on_url(self, url: bytes) -> None:
        """Take some of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, without the blanks behind it, which the parser leaves; a trailer comes too late to be one."""
        if self._in_head:
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Begin the request, unless it must be parsed anew, as one that offers no other protocol."""
        parser = self._parser
        assert parser is not None
        if parser.should_upgrade():
            self._offers_upgrade = True
            return
        if sum(len(name) + len(value) + 4 for name, value in self._headers) + len(self._url) > self._max_head_bytes:
            raise RequestHeadersTooLarge
        self._in_head, self._overhead = False, 0
        target = httptools.parse_url(self._url)
        if not target.path or not self._url.isascii():
            raise MalformedHttpRequest
        version = parser.get_http_version()
        _require_host(version, self._headers)
        self._handler.on_head(
            Head(
                method=parser.get_method().decode("ascii"),
                path=target.path,
                query=target.query or b"",
                http_version=version,
                headers=self._headers,
                keeps_connection=version == "1.1" and parser.should_keep_alive(),
                expects_continue=version == "1.1" and _expects_continue(self._headers),
            )
        )

    def on_body(self, part: bytes) -> None:
        """Take some of the body."""
        self._overhead = 0
        self._handler.on_body(part)

    def on_message_complete(self) -> None:
        """End the request."""
        if not self._offers_upgrade:
            self._in_head, self._overhead = True, 0
            self._handler.on_end()

    def _without_upgrade(self) -> bytes:
        """Return the head of the request again, without its offer of another protocol, which no server has to follow.

        The parser would take what follows for that protocol, and so the body for none.
        """
        assert self._parser is not None
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        if method == b"CONNECT":
            raise MalformedHttpRequest
        self._offers_upgrade = False
        self._parser = httptools.HttpRequestParser(self)
        lines = [b"%s: %s\r\n" % header for header in self._headers if header[0] != b"upgrade"]
        return b"%s %s HTTP/%s\r\n%s\r\n" % (method, self._url, version, b"".join(lines))


def _require_host(version: str, headers: Headers) -> None:
    """Return if a request names one host, as RFC 9112 wants it; before HTTP/1.1, none will do.

    Of two, a proxy could take the other one. Raises MalformedHttpRequest.
    """
    hosts = [value for name, value in headers if name == b"host"]
    if not hosts and version == "1.0":
        return
    if len(hosts) != 1:
        broken = f"must be there once, and is there {len(hosts)} times"
    elif not _HOST.fullmatch(hosts[0]):
        broken = f"must be a host, with a port or without, not {hosts[0][:100].decode('latin-1')!r}"
    else:
        return
    raise MalformedHttpRequest(violations=(FieldViolation("Host", broken),))


def _expects_continue(headers: Headers) -> bool:
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)
