"""The addresses of clients behind trusted proxies."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Each proxy appends the address of its own client.
FORWARDED_FOR = "x-forwarded-for"

# A client of IPv6 has a network of this size at least, so its addresses count as one.
_IPV6_PREFIX = 64

_WITH_PORT = re.compile(r"\[(.*)\](?::\d+)?|([\d.]+):\d+")


class TrustedProxies:
    """The proxies whose X-Forwarded-For is believed."""

    def __init__(self, networks: Collection[Network] = ()):
        self._networks = tuple(networks)

    def group_of_peer(self, host: str) -> str | None:
        """Return the client that a connection counts for; None for a proxy's, which many clients share."""
        address = _address(host)
        return None if address is None or self._trusts(address) else _group(address)

    def group_of_client(self, host: str, forwarded_for: Sequence[str]) -> str:
        """Return the client that a request counts for, by its connection's peer and its `X-Forwarded-For`, in order."""
        client = self._client(host, forwarded_for)
        return host if client is None else _group(client)

    def address_of_client(self, host: str, forwarded_for: Sequence[str]) -> str:
        """Return the address that a request came from, found as that of `group_of_client`."""
        return str(self._client(host, forwarded_for) or host)

    def _client(self, host: str, forwarded_for: Sequence[str]) -> Address | None:
        """Return the last address of those that is no proxy's, if a proxy has sent it; else that of the peer."""
        client = _address(host)
        entries = [entry.strip() for line in forwarded_for for entry in line.split(",")]
        while client is not None and self._trusts(client) and entries:
            said = _address(entries.pop())
            if said is None:
                break  # What was not said by a proxy, or cannot be understood, counts as the proxy's own.
            client = said
        return client

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    with_port = _WITH_PORT.fullmatch(text)
    bare = (with_port[1] or with_port[2]) if with_port else text
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _group(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)
