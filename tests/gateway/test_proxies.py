"""Which address a request is counted for: the last one that a trusted proxy names, and that is no such proxy's."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from server.gateway.proxies import TrustedProxies

PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
TRUSTED = "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.1", [], "203.0.113.1"),
        ("203.0.113.1", ["198.51.100.7"], "203.0.113.1"),
        (TRUSTED, ["198.51.100.7"], "198.51.100.7"),
        (TRUSTED, ["203.0.113.1, 198.51.100.7"], "198.51.100.7"),
        (TRUSTED, ["203.0.113.1", "198.51.100.7"], "198.51.100.7"),
        (TRUSTED, ["203.0.113.1,198.51.100.7 , 10.2.3.4"], "198.51.100.7"),
        (TRUSTED, ["10.2.3.4, fd00::1"], "10.2.3.4"),
        (TRUSTED, [], TRUSTED),
        (TRUSTED, ["", "unknown"], TRUSTED),
        (TRUSTED, ["198.51.100.7, unknown, 10.2.3.4"], "10.2.3.4"),
        (TRUSTED, ["198.51.100.7:4711"], "198.51.100.7"),
        (TRUSTED, ["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64"),
        (TRUSTED, ["[2001:db8:1:2:3::4]"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3::4", [], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        # As a socket for both families names those of IPv4.
        ("::ffff:203.0.113.1", [], "203.0.113.1"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("fd00::1", ["::ffff:198.51.100.7"], "198.51.100.7"),
    ],
)
def test_a_request_counts_for(peer: str, forwarded_for: list[str], client: str) -> None:
    assert PROXIES.group_of_client(peer, forwarded_for) == client


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("203.0.113.1", ["198.51.100.7"], "203.0.113.1"),
        (TRUSTED, ["203.0.113.1, 198.51.100.7"], "198.51.100.7"),
        (TRUSTED, ["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2:3::4"),
        (TRUSTED, ["unknown"], TRUSTED),
        ("::ffff:203.0.113.1", [], "203.0.113.1"),
        ("", [], ""),
    ],
)
def test_a_request_came_from(peer: str, forwarded_for: list[str], address: str) -> None:
    assert PROXIES.address_of_client(peer, forwarded_for) == address


@pytest.mark.parametrize(
    ("peer", "group"),
    [
        ("203.0.113.1", "203.0.113.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        (TRUSTED, None),
        ("::ffff:10.0.0.1", None),
        ("", None),
    ],
)
def test_a_connection_counts_for(peer: str, group: str | None) -> None:
    assert PROXIES.group_of_peer(peer) == group


@pytest.mark.parametrize("text", ["x" * 10_000, "9" * 10_000, "[" * 10_000, "1.2.3.4:" + "1" * 10_000, "１.2.3.4"])
def test_what_is_no_address_is_none(text: str) -> None:
    assert PROXIES.group_of_client(TRUSTED, [text]) in {TRUSTED, "1.2.3.4"}
