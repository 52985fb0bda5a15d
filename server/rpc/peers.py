"""The address that a call comes from, as the `peer` of its context has it."""

from __future__ import annotations

from urllib.parse import quote, unquote

import grpc


def http_peer(address: str) -> str:
    """Return the peer of a call for a request of HTTP, whose client has this address; its port is not known."""
    return f"http:{quote(address)}:"


def address_of(context: grpc.ServicerContext) -> str:
    """Return the address of a client without its port, such as `192.0.2.7`."""
    # As in `ipv4:192.0.2.7:50051`, `ipv6:%5B2001:db8::7%5D:50051` and `http:192.0.2.7:`.
    _, _, address = unquote(context.peer()).partition(":")
    return address.rpartition(":")[0].strip("[]")
