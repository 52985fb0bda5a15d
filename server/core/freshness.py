"""How new what a call reads must be, and where in the history of the database what it changed is stored."""

from __future__ import annotations

from contextvars import ContextVar

# What a change is answered with, and what a read brings, as metadata and as a header of HTTP.
POSITION = "modelregistry-position"


class Freshness:
    """Of a call: whose it is, the position that it brings, if any, and that of what it has changed; both are opaque."""

    __slots__ = ("at_least", "caller", "stored_at")

    def __init__(self, caller: str, at_least: str | None) -> None:
        self.caller = caller
        self.at_least = at_least
        self.stored_at: str | None = None


_freshness: ContextVar[Freshness | None] = ContextVar("freshness", default=None)


def begin(freshness: Freshness) -> None:
    """Let this context work for such a call."""
    _freshness.set(freshness)


def current_freshness() -> Freshness | None:
    """Return that of the call that this context works for; None if it works for no call."""
    return _freshness.get()
