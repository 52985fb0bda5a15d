"""Events that settle, seen by whoever looks now and then and waits for nothing."""

from __future__ import annotations

import threading

from server.storage.sql.decisions import Decision, marked
from server.storage.sql.event_log import newest_event
from server.storage.sql.session import Session


class SettlingEvents:
    """Which event is settled, as far as is known from look to look; safe to share between threads.

    An event is settled once all transactions have ended that were marked when it was there: see `event_log`.
    """

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._settled = 0
        # What was the newest event at some look, by those that were deciding then and have not ended.
        self._waiting: dict[frozenset[Decision], int] = {}

    def settled_by_now(self, session: Session) -> int:
        """Return the key of the newest event that is known to be settled, 0 if there is none."""
        with self._looking:
            newest = newest_event(session)
            if newest != self._settled:
                # Asked for behind the newest event: each that has drawn a smaller key has ended, or is among these.
                deciding = marked(session) if session.has_row_locks else frozenset()
                waiting: dict[frozenset[Decision], int] = {}
                for those, key in (*self._waiting.items(), (deciding, newest)):
                    # Of those that wait for the same ones, the newest. Where a standby took over, some can be lost.
                    waiting[those & deciding] = min(key, newest)
                self._settled = waiting.pop(frozenset(), self._settled)
                self._waiting = waiting
            return self._settled
