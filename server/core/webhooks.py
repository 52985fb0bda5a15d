"""Webhooks: where they may go, and what signs them."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from server.core.addresses import Network, is_permitted

DEFAULT_PORTS = (443, 8443)
MAX_URL_BYTES = 2048
# As Standard Webhooks has it.
SECRET_PREFIX = "whsec_"  # noqa: S105 - it is how each one begins
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64

_PORTS = {"https": 443, "http": 80}
# RFC 3986, but for the characters beyond ASCII, which every client would write in another way.
_CHARACTERS = re.compile(r"[!-~]+")
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+\](?::[0-9]*)?")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True, kw_only=True)
class WebhookRules:
    """Where the operator of a server lets webhooks go: whether without TLS, to which ports, and to which networks.

    The networks are those of addresses that are not public.
    """

    allow_http: bool = False
    ports: frozenset[int] = frozenset(DEFAULT_PORTS)
    networks: frozenset[Network] = frozenset()

    def objection(self, url: WebhookUrl) -> str | None:
        """Return what speaks against a URL here, as the end of “this field …”; None if nothing does.

        What the name of a host stands for is another matter, which is looked at each time that something is sent there.
        """
        if url.scheme != "https" and not self.allow_http:
            return "must begin with https://: this server sends no webhooks without TLS"
        if url.port not in self.ports:
            ports = ", ".join(map(str, sorted(self.ports)))
            return f"must name one of the ports {ports}, not {url.port}: this server sends webhooks to no other"
        try:
            address = ipaddress.ip_address(url.host)
        except ValueError:
            return None
        if not is_permitted(address, self.networks):
            return f"must not lead to {address}, which is not public: this server sends no webhooks there"
        return None


class WebhookUrl(NamedTuple):
    """The parts of a URL that say where a webhook goes; the host is a name in lower case, or an address."""

    scheme: str
    host: str
    port: int


def parse_url(url: str) -> WebhookUrl:
    """Return where a URL leads. Raises ValueError with the end of “this field …” if it is none for webhooks."""
    if len(url) > MAX_URL_BYTES:
        raise ValueError(f"must be at most {MAX_URL_BYTES} characters long, not {len(url)}")
    if not _CHARACTERS.fullmatch(url) or "\\" in url:
        raise ValueError("must be a URL of visible ASCII characters, with others as %XX or, in the host, as xn--…")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"must be a URL: {error}") from None
    if parts.scheme not in _PORTS:
        raise ValueError("must begin with https://")
    if "@" in parts.netloc:
        raise ValueError("must not have user information in it, since the secret says who sends")
    if "#" in url:
        raise ValueError("must not have a fragment, which is never sent")
    if "[" in parts.netloc and not _BRACKETED.fullmatch(parts.netloc):
        raise ValueError("must have nothing but an address in brackets")
    if not host or port == 0 or parts.netloc.endswith(":"):
        raise ValueError("must name a host, and a port only from 1 to 65535")
    _require_host(host)
    return WebhookUrl(parts.scheme, host, port or _PORTS[parts.scheme])


def _require_host(host: str) -> None:
    """Return if it is an address as it is usually written, or a name that cannot be mistaken for one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            raise ValueError("must not have a zone in its address")
        return
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("must have a host of letters, digits, hyphens and dots, or an address")
    # Such as 127.1 or 0x7f000001, which look-ups take for an address.
    if labels[-1][0].isdigit():
        raise ValueError("must have a host whose last part begins with a letter, or an address of four numbers")


def new_secret() -> str:
    """Return a secret that nobody knows."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(32)).decode()


def secret_bytes(secret: str) -> bytes:
    """Return the bytes of a secret. Raises ValueError with the end of “this field …”; the secret is not in it."""
    encoded = secret.removeprefix(SECRET_PREFIX)
    if not secret.startswith(SECRET_PREFIX) or not _BASE64.fullmatch(encoded):
        raise ValueError(f"must be {SECRET_PREFIX} and Base64")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError(f"must be {SECRET_PREFIX} and Base64 with its padding") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(f"must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in its Base64, not {len(key)}")
    return key
