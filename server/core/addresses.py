"""Which addresses webhooks may go to: those that are public, and those that the operator names.

Whoever makes a subscription chooses a name, and whoever owns that name chooses what it stands for: so each address is
looked at, and not the name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# What is public of IPv6 is in here, but for what is refused below. Everything else of the registry of special addresses
# is outside: loopback, link-local, unique local, multicast, IPv4-compatible ones, NAT64 of one's own.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# An address of IPv4 that is reached through a gateway: as public as that is.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_REFUSED: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        [
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            # What tells machines in Azure of themselves. That of other clouds is link-local, shared or unique local.
            "168.63.129.16/32",
            # Teredo and other protocols, benchmarks, documentation, and 6to4.
            *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
        ],
    )
)


def is_public(address: Address) -> bool:
    """Whether an address is one of the public Internet, also in the forms that IPv6 has for those of IPv4."""
    address = _plain(address)
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _REFUSED)


def is_permitted(address: Address, networks: Iterable[Network]) -> bool:
    """Whether webhooks may go to an address: it is public, or in one of these networks."""
    return is_public(address) or any(address in network or _plain(address) in network for network in networks)


def _plain(address: Address) -> Address:
    """Return the address of IPv4 that one of IPv6 stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
