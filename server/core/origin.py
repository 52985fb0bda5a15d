"""Where a change comes from, as its event tells: the call that this context works for, unless it is a command's."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple


class Origin(NamedTuple):
    """A call: the id that its line in the log has, and the address that it came from.

    Nothing of gRPC's, which would hold the call, and all that it holds, for as long as something holds the context.
    """

    request_id: str
    peer: str


_origin: ContextVar[Origin | None] = ContextVar("origin", default=None)


def begin(origin: Origin) -> None:
    """Let this context work for a call from there."""
    _origin.set(origin)


def current_origin() -> Origin | None:
    """Return where the call comes from that this context works for; None if it works for no call."""
    return _origin.get()
