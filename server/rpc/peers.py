"""The address that a call comes from."""

from __future__ import annotations

from urllib.parse import unquote

import grpc


def address_of(context: grpc.ServicerContext) -> str:
    """Return the address of a client without its port, such as `192.0.2.7`."""
    # As in `ipv4:192.0.2.7:50051`, `ipv6:%5B2001:db8::7%5D:50051` and `http:192.0.2.7:`.
    _, _, address = unquote(context.peer()).partition(":")
    return address.rpartition(":")[0].strip("[]")
