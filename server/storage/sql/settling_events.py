"""Events that settle, seen by whoever looks now and then and waits for nothing."""

from __future__ import annotations

import threading

from server.storage.contract import LogEnd
from server.storage.sql.decisions import Decision, marked
from server.storage.sql.event_log import newest_event
from server.storage.sql.session import Session


class SettlingEvents:
    """Which event is settled, as far as is known from look to look; safe to share between threads.

    An event is settled once all transactions have ended that were marked when it was there: see `event_log`.
    """

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._settled = LogEnd()
        # What was the newest event at some look, by those that were deciding then and have not ended.
        self._waiting: dict[frozenset[Decision], LogEnd] = {}

    def settled_by_now(self, session: Session) -> LogEnd:
        """Return the newest event that is known to be settled. Raises StorageUnavailable as `marked` does."""
        with self._looking:
            newest = newest_event(session)
            if newest != self._settled:
                # Asked for behind the newest event: each that has drawn a smaller key has ended, or is among these.
                deciding = marked(session) if session.has_row_locks else frozenset()
                if newest.key < self._settled.key:
                    # The log has lost it. What is being decided on this one, nobody has looked at yet.
                    self._settled, self._waiting = LogEnd(), {}
                waiting: dict[frozenset[Decision], LogEnd] = {}
                for those, end in (*self._waiting.items(), (deciding, newest)):
                    # Of those that wait for the same ones, the newest. What was lost, nobody is to read up to.
                    if end.key <= newest.key:
                        waiting[those & deciding] = end
                self._settled = waiting.pop(frozenset(), self._settled)
                self._waiting = waiting
            return self._settled
