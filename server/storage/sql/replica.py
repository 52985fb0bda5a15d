"""A standby that answers reads, as long as it is known to be new enough for them.

Every so often the newest place in the primary's log is asked for, and then how far the standby has come: if it is
there, it shows all that was committed when the primary was asked. Log sequence numbers alone would not tell it from one
that has gone another way in a failover, so it must have the newest event of the primary, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from sqlalchemy import select

from server.core.cancellation import CallOver
from server.core.errors import RegistryError
from server.core.freshness import Freshness
from server.storage.sql.cursors import WritePositions
from server.storage.sql.event_log import is_there, newest_event
from server.storage.sql.pool import Pool
from server.storage.sql.session import Session
from server.storage.sql.statements import Statement
from server.storage.sql.tables import opaque_keys

T = TypeVar("T")

# How often it is asked how far the standby is; more often if it may lag no longer than that.
LOOK_SECONDS = 0.25

# After what time without an answer to that it hangs, and reads that wait for it are broken off.
HANG_SECONDS = 2.0
CLOSE_SECONDS = 1.0

log = logging.getLogger(__name__)


class _Seen(NamedTuple):
    """How far the standby is known to be: when the primary was there at the latest, on our clock, and its place."""

    at: float
    place: int


class Replica:
    """Lends sessions on a standby; safe to share between threads.

    It never is why a read fails: what it cannot answer, the primary is asked.
    """

    def __init__(self, primary: Pool, standby: Pool, max_lag_seconds: float):
        """`max_lag_seconds` is how old what is read there may be."""
        self._primary = primary
        self._standby = standby
        self._max_lag = max_lag_seconds
        self._positions: WritePositions | None = None
        self._seen: _Seen | None = None
        # Where what each caller changed lately is stored, as far as the standby may not have it.
        self._changed: dict[str, int] = {}
        self._changing = threading.Lock()
        self._is_away = False
        self._closed = threading.Event()
        self._asked_at: float | None = None
        self._threads = [
            threading.Thread(target=work, name="replica", daemon=True)
            for work in (self._look_now_and_then, self._break_off_if_it_hangs)
        ]
        for thread in self._threads:
            thread.start()

    def note_change(self, freshness: Freshness, place: str) -> None:
        """Let its caller see what a call has changed, which is stored at a log sequence number."""
        number = _number(place)
        with self._changing:
            self._changed[freshness.caller] = max(number, self._changed.get(freshness.caller, 0))
        if self._positions is not None:
            freshness.stored_at = self._positions.position(number)

    def can_answer(self, freshness: Freshness | None) -> bool:
        """Whether a call may read here: it lags no more than it may, and has all that the call must see."""
        seen = self._seen
        if seen is None or time.monotonic() - seen.at > self._max_lag:
            return False
        if freshness is None:
            return True
        if freshness.at_least is not None:
            brought = None if self._positions is None else self._positions.place(freshness.at_least)
            # Of what is no position of this registry, nobody knows what it is to see.
            if brought is None or brought > seen.place:
                return False
        return self._changed.get(freshness.caller, 0) <= seen.place

    def read(self, query: Callable[[Session], T]) -> T:
        """Run a query. Raises what the pool raises; then others are not run until the standby was asked again."""
        try:
            return self._standby.read(query)
        except (RegistryError, CallOver):
            raise
        except Exception:
            self._seen = None
            raise

    def prepare(self) -> None:
        """Get ready to tell positions, which must not fail once something is committed. Raises the driver's errors."""
        if self._positions is None:
            self._positions = WritePositions(self._primary.read(lambda session: session.one(_secret)).key)

    def close(self) -> None:
        """Close the connections, and look no more."""
        self._closed.set()
        # One may wait for a standby that hangs.
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)
        self._standby.close()

    def _look_now_and_then(self) -> None:
        while not self._closed.wait(min(LOOK_SECONDS, self._max_lag / 4)):
            try:
                self._look()
            except Exception as error:
                self._seen = None
                self._tell(f"it does not answer: {error}")
            finally:
                self._asked_at = None

    def _break_off_if_it_hangs(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            asked_at = self._asked_at
            if asked_at is not None and time.monotonic() - asked_at > HANG_SECONDS:
                self._standby.break_off()

    def _look(self) -> None:
        at = time.monotonic()
        newest, flushed = self._primary.read(lambda session: (newest_event(session), _flushed(session)))
        self._asked_at = time.monotonic()
        # In this order: as far as each is, it has what was asked for before.
        replayed, has_newest = self._standby.read(lambda session: (_replayed(session), is_there(session, newest)))
        if replayed is None:
            self._seen = None
            self._tell("it is no standby")
        elif replayed >= flushed and not has_newest:
            self._seen = None
            self._tell("it has not what its primary has: it is of another registry, or went another way")
        elif replayed >= flushed:
            self._seen = _Seen(at, replayed)
            self._tell(None)
        elif self._seen is not None and at - self._seen.at > self._max_lag:
            self._seen = None
        # What will be seen whenever the standby is read again.
        certain = flushed if self._seen is None else self._seen.place
        with self._changing:
            self._changed = {caller: place for caller, place in self._changed.items() if place > certain}

    def _tell(self, why: str | None) -> None:
        """Write to the log that the standby is of no use, and why; or that it is again."""
        if why is not None and not self._is_away:
            log.warning("reads go to the primary alone, since the read database cannot be used: %s", why)
        if why is None and self._is_away:
            log.info("reads go to the read database again")
        self._is_away = why is not None


def _number(place: str) -> int:
    """Return a log sequence number as one; later ones are greater."""
    high, _, low = place.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def _flushed(session: Session) -> int:
    return _number(session.run("SELECT pg_current_wal_flush_lsn()")[0][0])


def _replayed(session: Session) -> int | None:
    """Return how far a standby is; None of what is none."""
    replayed = session.run("SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END")[0][0]
    return None if replayed is None else _number(replayed)


_secret = Statement(select(opaque_keys.c.key))
