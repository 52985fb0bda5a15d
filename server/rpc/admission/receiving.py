"""Bounds for messages on their way: how long each may take, and how many of each caller come in at a time.

gRPC takes in as much of a message as was announced once it is asked for. So that this is not more than there is
memory for, few are asked for at a time, and none of the callers has more than a share of these places. A message of
HTTP is there when its call begins: it takes no place, and its bytes count.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Protocol

from server.core.errors import Overloaded, RegistryError, RequestTimeout
from server.rpc.streams import Place, first_to_end
from server.rpc.threads import SHARE

# How many messages of callers with credentials may be on their way, and how many of each of these callers.
PLACES = 32
PLACES_OF_EACH = PLACES // SHARE
# How many calls of each caller may wait for a place, and how many of all: what came in of them already stays here.
WAITING = 32
ALL_WAITING = 4 * WAITING
# How many messages of strangers, who ask for health or for the schema, may be on their way.
STRANGERS = 32
# How much of what has arrived may wait for a thread or have one, in bytes, and how much of it of each caller. What is
# smaller than LARGE_BYTES is not worth counting.
MAX_BYTES = 128 * 2**20
SHARE_OF_BYTES = MAX_BYTES // SHARE  # and always one message
LARGE_BYTES = 64 * 2**10
# How often the calls are looked through, while a message may take its time.
SWEEPS = 20

log = logging.getLogger(__name__)


class Incoming(Protocol):
    """A call whose message is on its way."""

    @property
    def caller(self) -> str | None:
        """Its caller, by principal; None for strangers."""

    @property
    def connection(self) -> str:
        """The address and port of the client."""

    def begin(self) -> bool:
        """Let the message come in; False if its client is gone."""

    def refuse(self, error: RegistryError) -> None:
        """Answer with an error."""

    def drop(self) -> None:
        """End the call without an answer."""


class _Line:
    """The calls of one caller."""

    __slots__ = ("bytes", "receiving", "waiting")

    def __init__(self) -> None:
        self.receiving = 0
        self.bytes = 0
        self.waiting: deque[Incoming] = deque()


class Receiving:
    """Lets the messages of calls come in, within bounds; safe to share between threads.

    A stranger whose message does not come ends for the next one: see `first_to_end`.
    """

    def __init__(self, timeout_seconds: float, max_message_bytes: int) -> None:
        self._timeout = timeout_seconds
        self._share_of_bytes = max(SHARE_OF_BYTES, max_message_bytes)
        self._max_bytes = max(MAX_BYTES, max_message_bytes)
        self._lock = threading.Lock()
        # In the order in which they came, until their message is there: when each has to be.
        self._due: dict[Incoming, float] = {}
        self._strangers: dict[Incoming, Place] = {}
        # Of each caller; all strangers share one, for what has arrived.
        self._lines: dict[str | None, _Line] = {}
        # The callers with calls that wait, the next in turn first.
        self._with_waiting: dict[str, None] = {}
        self._waiting = 0
        self._free = PLACES
        self._bytes = 0
        self._closed = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="receiving", daemon=True)
        self._sweeper.start()

    def close(self) -> None:
        """Stop enforcing the time limit."""
        self._closed.set()
        self._sweeper.join()

    def enter(self, call: Incoming) -> None:
        """Let the message of a call come in, now or when it is its caller's turn."""
        # Only strangers are told apart by their connections, and outside of the lock.
        place = None if call.caller is not None else Place.taken_by(call.connection)
        with self._lock:
            if call.caller is None:
                assert place is not None
                self._strangers[call] = place
                begins, dropped = True, self._make_room()
            else:
                line = self._lines.setdefault(call.caller, _Line())
                begins, dropped = self._take_place(line), None
                if not begins:
                    is_refused = len(line.waiting) >= WAITING or self._waiting >= ALL_WAITING
                    if not is_refused:
                        self._waiting += 1
                        line.waiting.append(call)
                        self._with_waiting[call.caller] = None
                    else:
                        self._forget(call.caller)
            if begins or not is_refused:
                self._due[call] = time.monotonic() + self._timeout
        if dropped is not None:
            dropped.drop()
        if begins:
            self._begin([call])
        elif is_refused:
            call.refuse(Overloaded())

    def arrived(self, call: Incoming) -> bool:
        """Give up the place of a call whose message has arrived; False if it has been answered meanwhile."""
        nexts: list[Incoming] = []
        with self._lock:
            if self._due.pop(call, None) is None:
                return False
            if call.caller is None:
                del self._strangers[call]
            else:
                nexts = self._give_place_back(call.caller)
        self._begin(nexts)
        return True

    def take(self, caller: str | None, size: int) -> None:
        """Count a message of so many bytes that has arrived against its caller's share, until `done`.

        Raises Overloaded, and counts nothing, if the caller has too much here.
        """
        if size < LARGE_BYTES:
            return
        with self._lock:
            line = self._lines.get(caller) or _Line()
            if line.bytes + size > self._share_of_bytes or self._bytes + size > self._max_bytes:
                raise Overloaded
            line.bytes += size
            self._bytes += size
            self._lines[caller] = line

    def done(self, caller: str | None, size: int) -> None:
        """Count a message as gone."""
        if size < LARGE_BYTES:
            return
        with self._lock:
            self._lines[caller].bytes -= size
            self._bytes -= size
            self._forget(caller)

    def _begin(self, calls: list[Incoming]) -> None:
        """Let messages come in. The places of calls whose clients are gone go to the next."""
        queue = deque(calls)
        while queue:
            call = queue.popleft()
            if not call.begin():
                with self._lock:
                    if self._due.pop(call, None) is None:
                        continue
                    if call.caller is None:
                        del self._strangers[call]
                    else:
                        queue.extend(self._give_place_back(call.caller))

    def _make_room(self) -> Incoming | None:
        """Return the stranger's call that has to end for the one that has just come, if one has to."""
        if len(self._strangers) <= STRANGERS:
            return None
        ended = first_to_end(self._strangers)
        del self._strangers[ended], self._due[ended]
        return ended

    def _take_place(self, line: _Line) -> bool:
        if self._free == 0 or line.receiving >= PLACES_OF_EACH:
            return False
        self._free -= 1
        line.receiving += 1
        return True

    def _give_place_back(self, caller: str) -> list[Incoming]:
        """Return the calls that take the place."""
        self._free += 1
        self._lines[caller].receiving -= 1
        nexts = []
        for waiting in tuple(self._with_waiting):
            line = self._lines[waiting]
            if self._take_place(line):
                nexts.append(line.waiting.popleft())
                self._waiting -= 1
                del self._with_waiting[waiting]
                if line.waiting:
                    self._with_waiting[waiting] = None  # Behind the others.
        self._forget(caller)
        return nexts

    def _forget(self, caller: str | None) -> None:
        line = self._lines[caller]
        if not (line.receiving or line.waiting or line.bytes):
            del self._lines[caller]

    def _sweep(self) -> None:
        while not self._closed.wait(self._timeout / SWEEPS):
            expired, nexts = self._take_expired()
            # What goes wrong with one call must not keep the others from their end.
            for call in expired:
                try:
                    call.refuse(RequestTimeout())
                except Exception:
                    log.exception("a call whose message did not come could not be answered")
            try:
                self._begin(nexts)
            except Exception:
                log.exception("calls that waited for others could not begin")

    def _take_expired(self) -> tuple[list[Incoming], list[Incoming]]:
        """Return the calls whose time is up, and those that take their places."""
        expired: list[Incoming] = []
        nexts: list[Incoming] = []
        with self._lock:
            now = time.monotonic()
            while self._due and self._due[call := next(iter(self._due))] <= now:
                del self._due[call]
                expired.append(call)
                if call.caller is None:
                    del self._strangers[call]
                    continue
                line = self._lines[call.caller]
                if call in line.waiting:
                    line.waiting.remove(call)
                    self._waiting -= 1
                    if not line.waiting:
                        del self._with_waiting[call.caller]
                    self._forget(call.caller)
                else:
                    nexts += self._give_place_back(call.caller)
        # One of them may have taken a place that another one gave back.
        return expired, [call for call in nexts if call in self._due]
