"""Principals whose calls are refused, whatever their tokens say: a list that is short, and kept in memory.

It is read from the storage before the server serves, and then every second. If it cannot be read, the last one holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from server.core.caller import Caller


class DisabledPrincipals:
    """The principals that are disabled, as far as this process knows; safe to share between threads."""

    def __init__(self) -> None:
        self._principals: frozenset[str] = frozenset()
        # Held while the list is read, so that no older one comes in the place of a newer one.
        self._reading = threading.Lock()

    def refresh(self, read: Callable[[], frozenset[str]]) -> None:
        """Take what is stored now. Raises what reading it raises, and then keeps what was known."""
        with self._reading:
            self._principals = read()

    def add(self, principal: str) -> None:
        """Know of a principal that has been disabled before others tell."""
        with self._reading:
            self._principals |= {principal}

    def remove(self, principal: str) -> None:
        """Know of a principal that has been enabled."""
        with self._reading:
            self._principals -= {principal}

    def has_user(self, caller: Caller) -> bool:
        """Whether the caller's user is disabled; its groups are another matter."""
        return caller.user in self._principals

    def has_any(self, caller: Caller) -> bool:
        """Whether the caller's user is disabled, or one of its groups."""
        return not self._principals.isdisjoint(caller.principals)

    def first_of(self, caller: Caller) -> str | None:
        """Return the caller's user if that is disabled, else a group of its that is; None if none is."""
        disabled = self._principals
        return next((principal for principal in caller.principals if principal in disabled), None)

    def enabled_principals(self, caller: Caller) -> tuple[str, ...]:
        """Return the caller's principals that are not disabled."""
        disabled = self._principals
        if disabled.isdisjoint(caller.principals):
            return caller.principals
        return tuple(principal for principal in caller.principals if principal not in disabled)
