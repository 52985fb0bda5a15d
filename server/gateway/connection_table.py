"""The connections of one worker. If there are too many, those without good credentials are closed, oldest first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from server.core.errors import Overloaded
from server.gateway.limits import SHARE, HttpLimits

# How much is read of a connection before it can ask for no more.
READ_BYTES = 64 * 2**10
# For the answers of requests that are cancelled when the server ends.
_LAST_ANSWERS_SECONDS = 1.0


class Closable(Protocol):
    """A connection, as the table sees it."""

    def abort(self) -> None:
        """End now, whatever is under way."""

    def finish(self) -> None:
        """End as soon as the request that is under way is answered."""


class Slot:
    """The place of one connection among all. It is authenticated once a request on it had good credentials."""

    def __init__(self, table: ConnectionTable, connection: Closable, address: str | None):
        self._table = table
        self.connection = connection
        self.address = address
        self.is_authenticated = False
        self.is_held = False

    def authenticate(self) -> None:
        """Say that a request on it has good credentials. Raises Overloaded if there are too many such."""
        if not self.is_authenticated:
            self._table.authenticate(self)

    def require_room(self) -> None:
        """Raise Overloaded if `authenticate` would."""
        if not self.is_authenticated:
            self._table.require_room()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep it while its credentials are being verified: others are closed before it."""
        self.is_held = True
        try:
            yield
        finally:
            self.is_held = False


class ConnectionTable:
    """All connections, and the tasks that answer their requests."""

    def __init__(self, limits: HttpLimits):
        self._max_authenticated = limits.max_connections
        self._max = limits.max_connections + limits.spare_connections
        self._max_per_address = max(1, limits.max_connections // SHARE)
        self._authenticated: set[Slot] = set()
        # Those without good credentials, the oldest first; and the same for each address.
        self._others: dict[Slot, None] = {}
        self._others_of: dict[str, dict[Slot, None]] = {}
        self._left = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()
        # The event loop fills it for one connection at a time, which takes out at once what it has got.
        self.buffer = memoryview(bytearray(READ_BYTES))

    def enter(self, connection: Closable, address: str | None) -> Slot:
        """Give a new connection its slot, and end another one if there would be too many.

        `address` is that of the client; None if many clients share it.
        """
        if address is not None and len(of_address := self._others_of.setdefault(address, {})) >= self._max_per_address:
            self._make_room(of_address)
        if len(self._authenticated) + len(self._others) >= self._max:
            self._make_room(self._others)
        slot = Slot(self, connection, address)
        self._others[slot] = None
        if address is not None:
            self._others_of.setdefault(address, {})[slot] = None
        return slot

    def leave(self, slot: Slot) -> None:
        """Take back the slot of a connection that has ended."""
        self._authenticated.discard(slot)
        self._forget_other(slot)
        self._left.set()

    def authenticate(self, slot: Slot) -> None:
        """Let no other connection take the place of this one. Raises Overloaded."""
        self.require_room()
        if slot in self._others:
            self._forget_other(slot)
            self._authenticated.add(slot)
            slot.is_authenticated = True

    def require_room(self) -> None:
        """Raise Overloaded if no more connections can be authenticated."""
        if len(self._authenticated) >= self._max_authenticated:
            raise Overloaded

    async def drain(self, seconds: float) -> None:
        """End all connections, within the time given; those with a request under way when it is answered."""
        for slot in self._all():
            slot.connection.finish()
        await self._wait_for_the_last(seconds - _LAST_ANSWERS_SECONDS)
        for task in self.tasks:
            task.cancel()
        await self._wait_for_the_last(_LAST_ANSWERS_SECONDS)
        for slot in self._all():
            slot.connection.abort()

    def _all(self) -> list[Slot]:
        return [*self._authenticated, *self._others]

    def _make_room(self, slots: dict[Slot, None]) -> None:
        longest = next((slot for slot in slots if not slot.is_held), next(iter(slots)))
        self._forget_other(longest)
        longest.connection.abort()

    def _forget_other(self, slot: Slot) -> None:
        self._others.pop(slot, None)
        if slot.address is not None and (of_address := self._others_of.get(slot.address)) is not None:
            of_address.pop(slot, None)
            if not of_address:
                del self._others_of[slot.address]

    async def _wait_for_the_last(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._all():
                    self._left.clear()
                    await self._left.wait()
