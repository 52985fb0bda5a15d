"""The address that a call comes from."""

from __future__ import annotations

from urllib.parse import unquote

import grpc

from server.core.origin import CLIENT_ADDRESS

_PRIVATE = "unix:"


def address_of(context: grpc.ServicerContext) -> str:
    """Return the address of a client without its port, such as `192.0.2.7`; of what the gateway calls, its client's."""
    peer: str = context.peer()
    if peer.startswith(_PRIVATE):
        # Nobody but this process itself has that socket: what it says of others is true.
        return next((str(value) for key, value in context.invocation_metadata() if key == CLIENT_ADDRESS), "")
    # As in `ipv4:192.0.2.7:50051` and `ipv6:%5B2001:db8::7%5D:50051`.
    _, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]")
