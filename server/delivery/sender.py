"""Sends one webhook, to an address that was looked at, and says how that ended."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx

from server.core.webhooks import WebhookRules, parse_url
from server.delivery.addresses import Address, is_permitted, is_public
from server.storage.contract import AttemptEnd

# For all of it: the look-up of the name, the connection, and the answer.
ANSWER_SECONDS = 10.0
# For a connection to one of several addresses.
CONNECT_SECONDS = 4.0
# What is kept of an answer.
MOST_ANSWER_BYTES = 1024
# A look-up cannot be broken off, and goes on when nobody waits for it any more.
LOOKUPS = 64

log = logging.getLogger(__name__)

# Returns the addresses that a name stands for, the best first. Raises OSError.
Resolve: TypeAlias = Callable[[str], Awaitable[list[Address]]]


class Sender:
    """Sends webhooks to where `allowed` lets them go; for one event loop.

    `tls` is what certificates are judged by, and `resolve` looks names up, by default as the system does.
    """

    def __init__(
        self, allowed: WebhookRules, *, tls: ssl.SSLContext | None = None, resolve: Resolve | None = None
    ) -> None:
        self._allowed = allowed
        self._tls = tls or ssl.create_default_context()
        self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="webhook-lookups")
        self._resolve = resolve or self._look_up

    def close(self) -> None:
        """Look nothing up any more."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> AttemptEnd:
        """Send a body to a URL, and return how that ended, after ANSWER_SECONDS at the latest. Raises nothing else."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                end = await self._send(url, headers, body)
        except TimeoutError:
            end = AttemptEnd(0, error=f"there was no answer within {ANSWER_SECONDS:.0f} s")
        except _NotSent as why:
            end = AttemptEnd(0, error=str(why))
        except httpx.ConnectError as error:
            end = AttemptEnd(0, error=f"there was no connection: {str(error)[:200]}")
        except httpx.TimeoutException:
            end = AttemptEnd(0, error="there was no connection in time")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            # Their texts can quote what was answered, which is not to be told of every address.
            log.info("a webhook has failed", exc_info=error)
            end = AttemptEnd(0, error="the connection ended, or what was answered is not HTTP")
        return end._replace(duration_ms=round((time.monotonic() - began) * 1000))

    async def _send(self, url: str, headers: Mapping[str, str], body: bytes) -> AttemptEnd:
        target = parse_url(url)
        objection = self._allowed.objection(target)
        if objection is not None:
            raise _NotSent(f"its URL {objection}")
        addresses = await self._addresses(target.host)
        # Named as in the URL, whatever address it goes to.
        named = {**headers, "host": urlsplit(url).netloc, "accept": "*/*", "accept-encoding": "identity"}
        for address in addresses:
            is_last = address is addresses[-1]
            timeout = httpx.Timeout(ANSWER_SECONDS, connect=ANSWER_SECONDS if is_last else CONNECT_SECONDS)
            # A client for each, which keeps neither connections nor cookies, and asks no proxy.
            async with httpx.AsyncClient(
                verify=self._tls, trust_env=False, follow_redirects=False, timeout=timeout
            ) as client:
                request = client.build_request(
                    "POST",
                    httpx.URL(url).copy_with(host=str(address)),
                    headers=named,
                    content=body,
                    # Whose certificate it must be.
                    extensions={"sni_hostname": target.host.removesuffix("."), "timeout": timeout.as_dict()},
                )
                try:
                    response = await client.send(request, stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if is_last:
                        raise
                    continue
                try:
                    return await _read(response, keeps_body=is_public(address))
                finally:
                    await response.aclose()
        raise AssertionError("the last address returns or raises")

    async def _addresses(self, host: str) -> list[Address]:
        """Return the addresses of a host, one at least, if webhooks may go to all of them. Raises _NotSent."""
        try:
            addresses = [ipaddress.ip_address(host)]
        except ValueError:
            try:
                addresses = await self._resolve(host)
            except (OSError, UnicodeError):
                addresses = []
        if not addresses:
            raise _NotSent("the name of its host stands for no address")
        refused = [address for address in addresses if not is_permitted(address, self._allowed.networks)]
        if refused:
            # Which it is only the operator learns: names of a private network are no business of others.
            log.warning("a webhook to %s was not sent, since that is %s: see --webhook-allow", host, refused[0])
            raise _NotSent("the name of its host stands for an address that webhooks may not go to")
        return addresses

    async def _look_up(self, host: str) -> list[Address]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._lookups, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )
        # The zone of a link-local address is cut off; it is refused anyway.
        texts = (str(place[0]).partition("%")[0] for *_, place in found)
        return list(dict.fromkeys(map(ipaddress.ip_address, texts)))


class _NotSent(Exception):
    """Nothing was sent; the text says why."""


async def _read(response: httpx.Response, *, keeps_body: bool) -> AttemptEnd:
    """Return the status of an answer, and the first bytes of its body if these may be kept."""
    first = b""
    if keeps_body:
        async for chunk in response.aiter_raw():
            first += chunk[: MOST_ANSWER_BYTES - len(first)]
            if len(first) == MOST_ANSWER_BYTES:
                break
    return AttemptEnd(0, http_status=response.status_code, answer=first if keeps_body else None)
