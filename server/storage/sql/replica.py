"""A standby that answers reads, as long as it is known to be new enough for them.

Every so often the newest place in the primary's log is asked for, and then how far the standby has come: it shows all
that was committed when the primary was last at a place that it has passed. Log sequence numbers alone would not tell it
from one that has gone another way in a failover, so it must have the event that was the newest then, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from sqlalchemy import select

from server.core.freshness import Freshness
from server.storage.contract import LogEnd
from server.storage.sql.cursors import WritePositions
from server.storage.sql.event_log import is_there, newest_event
from server.storage.sql.pool import ConnectionLost, Pool
from server.storage.sql.session import Session
from server.storage.sql.statements import Statement
from server.storage.sql.tables import opaque_keys

T = TypeVar("T")

# How often it is asked how far the standby is; more often if it may lag no longer than that.
LOOK_SECONDS = 0.25

# After what time without an answer a read is broken off, since the standby hangs.
HANG_SECONDS = 2.0
# For how long a caller reads at the primary after a change of whose COMMIT the outcome is unknown: it may come late.
UNCERTAIN_SECONDS = 60.0
# Of so many callers it is known where what they changed is stored; of more, only where the last of it is.
MOST_CALLERS = 10_000
CLOSE_SECONDS = 1.0

log = logging.getLogger(__name__)


class _Seen(NamedTuple):
    """How far the standby is known to be: when the primary was there at the latest, on our clock, and its place."""

    at: float
    place: int


class _Told(NamedTuple):
    """What the primary has told: when it was asked, its newest event, and how far its log was on its disk."""

    at: float
    newest: LogEnd
    flushed: int


class Replica:
    """Lends sessions on a standby; safe to share between threads.

    What it does not answer, the primary is asked, after HANG_SECONDS if the standby hangs.
    """

    def __init__(self, primary: Pool, standby: Pool, max_lag_seconds: float):
        """`max_lag_seconds` is how old what is read there may be."""
        self._primary = primary
        self._standby = standby
        self._max_lag = max_lag_seconds
        self._positions: WritePositions | None = None
        self._seen: _Seen | None = None
        # When the standby last had all of the primary, kept when `_seen` is dropped.
        self.seen_at = time.monotonic()
        # Where what each caller changed lately is stored, as far as the standby may not have it.
        self._changed: dict[str, int] = {}
        # And of those of whom it is not known any more.
        self._changed_by_others = 0
        # Until when callers read at the primary, of whose changes it is not known where they are, or whether.
        self._uncertain: dict[str, float] = {}
        self._changing = threading.Lock()
        self._told: deque[_Told] = deque()
        self._is_away = False
        self._closed = threading.Event()
        # Since when a session waits for an answer, or works with one.
        self._asked: dict[Session, float] = {}
        self._threads = [
            threading.Thread(target=work, name="replica", daemon=True)
            for work in (self._look_now_and_then, self._break_off_if_it_hangs)
        ]
        for thread in self._threads:
            thread.start()

    def note_change(self, freshness: Freshness, place: str | None) -> None:
        """Let its caller see what a call has changed, which is stored at a log sequence number.

        None is of what may have been changed, or is stored somewhere: then the caller reads at the primary for a while.
        Raises nothing.
        """
        if place is None:
            with self._changing:
                self._uncertain[freshness.caller] = time.monotonic() + UNCERTAIN_SECONDS
            return
        number = _number(place)
        with self._changing:
            self._changed[freshness.caller] = max(number, self._changed.get(freshness.caller, 0))
        if self._positions is not None:
            freshness.stored_at = self._positions.position(number)

    def can_answer(self, freshness: Freshness | None) -> bool:
        """Whether a call may read here: it lags no more than it may, and has all that the call must see."""
        seen = self._seen
        if seen is None or time.monotonic() - seen.at > self._max_lag or seen.place < self._changed_by_others:
            return False
        if freshness is None:
            return True
        if freshness.at_least is not None:
            brought = None if self._positions is None else self._positions.place(freshness.at_least)
            # What is no position of this registry does not tell what the caller must see.
            if brought is None or brought > seen.place:
                return False
        if time.monotonic() < self._uncertain.get(freshness.caller, 0):
            return False
        return self._changed.get(freshness.caller, 0) <= seen.place

    def read(self, query: Callable[[Session], T]) -> T:
        """Run a query. Raises what the pool raises; ConnectionLost if the standby does not answer for HANG_SECONDS."""

        def run(session: Session) -> T:
            self._asked[session] = time.monotonic()
            try:
                return query(session)
            finally:
                del self._asked[session]

        try:
            return self._standby.read(run)
        except ConnectionLost:
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
            at = time.monotonic()
            try:
                told = self._primary.read(lambda session: (newest_event(session), _flushed(session)))
            except Exception as error:
                # It is no standby's fault, and what is known of that is out of date soon.
                log.debug("it is not known how far the primary is: %s", error)
                continue
            self._told.append(_Told(at, *told))
            while len(self._told) > 1 and at - self._told[0].at > self._max_lag:
                self._told.popleft()
            replayed = 0
            try:
                replayed = self.read(self._look)
            except Exception as error:
                self._seen = None
                self._tell(f"it does not answer: {error}")
            self._forget(replayed)

    def _break_off_if_it_hangs(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            for session, asked_at in self._asked.copy().items():
                if time.monotonic() - asked_at > HANG_SECONDS:
                    session.break_off()

    def _look(self, session: Session) -> int:
        """Take note of how far the standby is, and return that; 0 of what is none."""
        replayed = _replayed(session)
        if replayed is None:
            self._seen = None
            self._tell("it is no standby")
            return 0
        # The latest that the primary has told and that the standby has by now, however little it always lags.
        reached = [told for told in self._told if told.flushed <= replayed]
        if not reached:
            lag = self._told[-1].at - self._told[0].at
            # At first, nothing is known of how far the primary was before.
            if lag > self._max_lag / 2:
                self._tell(f"it lags by {lag:.1f} s or more, and may by {self._max_lag:g} s")
        # Asked behind how far it is: as far as that is, it has what was asked for before.
        elif is_there(session, reached[-1].newest):
            self._seen = _Seen(reached[-1].at, replayed)
            self.seen_at = reached[-1].at
            self._tell(None)
        else:
            self._seen = None
            self._tell("it has not what its primary has: it is of another registry, or went another way")
        return replayed

    def _forget(self, replayed: int) -> None:
        """Let go of what the standby has by now, wherever it is read from."""
        now = time.monotonic()
        with self._changing:
            self._changed = {caller: place for caller, place in self._changed.items() if place > replayed}
            self._uncertain = {caller: until for caller, until in self._uncertain.items() if until > now}
            if len(self._changed) > MOST_CALLERS:
                self._changed_by_others = max(self._changed.values())
                self._changed.clear()

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
