"""Sends webhooks, each to an address that was looked at, and says how that ended.

httpcore speaks HTTP: no redirects, no proxies, no cookies and no logs of URLs, in which there can be secrets.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import httpcore

from server.core.addresses import Address, is_permitted, is_public
from server.core.webhooks import WebhookRules, parse_url
from server.storage.contract import AttemptEnd

# For all of it: the look-up of the name, the connection, and the answer.
ANSWER_SECONDS = 10.0
# For a connection to one of several addresses.
CONNECT_SECONDS = 4.0
# What is read of an answer, with all that comes before its status, and what is kept of its body.
MOST_READ_BYTES = 2**14
MOST_ANSWER_BYTES = 1024
# For the body, which decides nothing: it may have no end that is told.
BODY_SECONDS = 0.25
# For a connection to end in order.
CLOSE_SECONDS = 1.0
# A look-up cannot be broken off, and goes on when its attempt is over. So each principal has some of them.
LOOKUPS = 64
LOOKUPS_OF_EACH = 16
_END_OF_HEAD = b"\r\n\r\n"

log = logging.getLogger(__name__)

# Returns the addresses that a name stands for, the best first. Raises OSError.
Resolve: TypeAlias = Callable[[str], Awaitable[list[Address]]]


class WebhookSender:
    """Sends webhooks to where `allowed` lets them go; for one event loop.

    `tls` is what certificates are judged by, and `resolve` looks names up, by default as the system does.
    """

    def __init__(
        self, allowed: WebhookRules, *, tls: ssl.SSLContext | None = None, resolve: Resolve | None = None
    ) -> None:
        self._allowed = allowed
        self._tls = tls or ssl.create_default_context()
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="webhook-lookups")
        self._resolve = resolve or self._look_up
        # By principal; there are no more of these than principals with subscriptions.
        self._free_lookups: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(LOOKUPS_OF_EACH))

    def close(self) -> None:
        """Look nothing up any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def connection(self) -> ReceiverConnection:
        """Return what sends webhooks to a receiver, to be used in `async with`."""
        return ReceiverConnection(self._allowed, self._tls, self._addresses)

    async def _addresses(self, host: str, principal: str) -> list[Address]:
        """Return the addresses of a host, one at least, if webhooks may go to all of them. Raises _NotSent."""
        try:
            addresses = [ipaddress.ip_address(host)]
        except ValueError:
            try:
                addresses = await self._resolved(host, principal)
            except (OSError, UnicodeError):
                addresses = []
        refused = [address for address in addresses if not is_permitted(address, self._allowed.networks)]
        if refused:
            log.warning("a webhook to %s was not sent, since that is %s: see --webhook-allow", host, refused[0])
        if refused or not addresses:
            # Which it is only the operator learns: names of a private network are no business of others.
            raise _NotSent("the name of its host stands for no address that webhooks may go to")
        return addresses

    async def _resolved(self, host: str, principal: str) -> list[Address]:
        free = self._free_lookups[principal]
        await free.acquire()
        looking_up = asyncio.ensure_future(self._resolve(host))

        def end(ended: asyncio.Future[list[Address]]) -> None:
            free.release()
            if not ended.cancelled():
                # Its attempt may be over.
                ended.exception()

        looking_up.add_done_callback(end)
        return await asyncio.shield(looking_up)

    async def _look_up(self, host: str) -> list[Address]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )
        # The zone of a link-local address is cut off; it is refused anyway.
        texts = (str(place[0]).partition("%")[0] for *_, place in found)
        return list(dict.fromkeys(map(ipaddress.ip_address, texts)))


class ReceiverConnection:
    """Sends webhooks one after the other, over one connection as long as the receiver keeps it.

    `addresses_of` returns the addresses of a host for a principal, one at least, if webhooks may go to all of them, and
    raises _NotSent. They are looked up for each connection, not for each webhook.
    """

    def __init__(
        self,
        allowed: WebhookRules,
        tls: ssl.SSLContext,
        addresses_of: Callable[[str, str], Awaitable[list[Address]]],
    ) -> None:
        self._allowed = allowed
        self._tls = tls
        self._addresses_of = addresses_of
        self._open: _Connection | None = None

    async def __aenter__(self) -> ReceiverConnection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, principal: str = "") -> AttemptEnd:
        """Send a body to a URL for a principal, and return how that ended, after ANSWER_SECONDS at the latest.

        Raises nothing else.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                end = await self._send(url, headers, body, principal)
        except TimeoutError:
            end = AttemptEnd(error=f"there was no answer within {ANSWER_SECONDS:.0f} s")
        except _NotSent as why:
            end = AttemptEnd(error=str(why))
        except _TooLong:
            end = AttemptEnd(error=f"what was answered is longer than {MOST_READ_BYTES // 1024} KiB")
        except httpcore.ConnectError as error:
            end = AttemptEnd(error=f"there was no connection: {str(error)[:200]}")
        except httpcore.TimeoutException:
            end = AttemptEnd(error="there was no connection in time")
        except Exception as error:
            # Also what httpcore lets through. Their texts can quote what was answered, which is not to be told of every
            # address.
            log.info("a webhook has failed: %s", type(error).__name__)
            end = AttemptEnd(error="the connection ended, or what was answered is not HTTP")
        return end._replace(duration_ms=round((time.monotonic() - began) * 1000))

    async def _send(self, url: str, headers: Mapping[str, str], body: bytes, principal: str) -> AttemptEnd:
        target = parse_url(url)
        objection = self._allowed.objection(target)
        if objection is not None:
            raise _NotSent(f"its URL {objection}")
        parts = urlsplit(url)
        place = httpcore.URL(
            scheme=target.scheme,
            host=target.host,
            port=target.port,
            target=f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}",
        )
        named = {**headers, "host": parts.netloc, "accept": "*/*", "accept-encoding": "identity"}
        request = httpcore.Request(
            "POST",
            place,
            headers=[*named.items(), ("content-length", str(len(body)))],
            content=body,
            # Whose certificate it must be.
            extensions={"sni_hostname": target.host.removesuffix(".")},
        )
        if self._open is not None and self._open.is_kept_for(place.origin):
            try:
                return await self._open.ask(request)
            except Exception:
                if self._open.was_answered:
                    raise
                # The receiver has closed it meanwhile: then the webhook goes over another one.
        await self._close()
        self._open = _Connection(place.origin, self._tls, await self._addresses_of(target.host, principal))
        return await self._open.ask(request)

    async def _close(self) -> None:
        open_, self._open = self._open, None
        if open_ is not None:
            with suppress(Exception):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await open_.close()


class _NotSent(Exception):
    """Nothing was sent; the text says why."""


class _TooLong(Exception):
    """More came than is read."""


class _Connection:
    """A connection to the first of some addresses that accepts one."""

    def __init__(self, origin: httpcore.Origin, tls: ssl.SSLContext, addresses: Sequence[Address]) -> None:
        self._network = _Addresses(addresses)
        self._http = httpcore.AsyncHTTPConnection(origin, tls, network_backend=self._network)
        # Whether the last answer was read to its end, and nothing came behind it.
        self._is_in_step = False

    def is_kept_for(self, origin: httpcore.Origin) -> bool:
        """Whether it leads there, and the receiver has neither closed it nor said more than was asked.

        What it has said would be taken for the answer to the next webhook.
        """
        http = self._http
        return self._is_in_step and http.can_handle_request(origin) and http.is_available() and not http.has_expired()

    @property
    def was_answered(self) -> bool:
        """Whether anything has come since the last request."""
        return bool(self._network.received)

    async def ask(self, request: httpcore.Request) -> AttemptEnd:
        """Send a request, and return how it was answered. Raises _TooLong, and what httpcore does."""
        self._is_in_step = False
        self._network.received.clear()
        response = await self._http.handle_async_request(request)
        try:
            assert self._network.connected_to is not None, "who answered was connected to"
            body = await _body_of(response)
            self._is_in_step = self._is_all_read(body, response)
        finally:
            # Which closes the connection if the answer was not read to its end.
            await response.aclose()
        keeps_body = is_public(self._network.connected_to)
        return AttemptEnd(http_status=response.status, answer=body[:MOST_ANSWER_BYTES] if keeps_body else None)

    def _is_all_read(self, body: bytes, response: httpcore.Response) -> bool:
        """Whether all that came is one head and this body, and nothing waits behind it that was not read."""
        received = self._network.received
        head = received.removesuffix(body)
        if head.find(_END_OF_HEAD) != len(head) - len(_END_OF_HEAD) or not received.endswith(body):
            return False
        if len(received) == MOST_READ_BYTES:
            return False
        tls: ssl.SSLObject | None = response.extensions["network_stream"].get_extra_info("ssl_object")
        return tls is None or not _has_more(tls)

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()


def _has_more(tls: ssl.SSLObject) -> bool:
    """Whether a receiver has sent more over TLS than was read of its answer; a byte of that is taken out."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        pass
    return True


class _Addresses(httpcore.AsyncNetworkBackend):
    """Connects to the first of some addresses that accepts a connection, whatever name is asked for.

    Of an answer MOST_READ_BYTES are read, which are `received`: a receiver could say `100 Continue` for ever.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses
        self._network = httpcore.AnyIOBackend()
        self.connected_to: Address | None = None
        self.received = bytearray()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a connection. Raises what httpcore does."""
        for address in self._addresses:
            is_last = address is self._addresses[-1]
            seconds = ANSWER_SECONDS if is_last else CONNECT_SECONDS
            try:
                stream = await self._network.connect_tcp(str(address), port, seconds)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if is_last:
                    raise
            else:
                self.connected_to = address
                return _Bounded(stream, self)
        raise AssertionError("the last address returns or raises")


class _Bounded(httpcore.AsyncNetworkStream):
    """A connection of which no more is read for an answer than MOST_READ_BYTES."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, network: _Addresses) -> None:
        self._stream = stream
        self._network = network

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has come. Raises _TooLong, and what httpcore does."""
        left = MOST_READ_BYTES - len(self._network.received)
        if not left:
            raise _TooLong
        data = await self._stream.read(min(max_bytes, left), timeout)
        self._network.received += data
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send something."""
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """Hang up."""
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Return the connection as one with TLS, of which as much is read."""
        try:
            stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            # Also when time is over, for which httpcore closes nothing.
            await self._stream.aclose()
            raise
        return _Bounded(stream, self._network)

    def get_extra_info(self, info: str) -> Any:
        """Return what is known of the connection."""
        return self._stream.get_extra_info(info)


async def _body_of(response: httpcore.Response) -> bytes:
    """Return the body of an answer, or its beginning if it is longer than is kept, late, or cut off."""
    body = b""
    with suppress(_TooLong, TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > MOST_ANSWER_BYTES:
                    break
    return body
