"""What a connection does for a call is interrupted when the call is over, and nothing else ever is."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Executor
from types import TracebackType

from sqlalchemy import Connection

from server.core.cancellation import LOOK_SECONDS, Call, CallOver
from server.core.logs import get_logger
from server.storage.sql.engine import interrupt

log = get_logger(__name__)


class Interruption:
    """A block in which a connection works for a call. If the call is over before its end, it raises CallOver.

    Whether an interruption reaches the database before or after what it was meant for has ended, only the database
    knows. So a connection that was interrupted is given up: it is invalidated, which rolls back what it was doing.
    """

    __slots__ = ("_call", "_connection", "_driver", "_interrupters", "_sending", "_was_interrupted", "_works")

    def __init__(self, connection: Connection, call: Call, interrupters: Executor):
        self._connection = connection
        self._call = call
        self._interrupters = interrupters
        self._driver = connection.connection.dbapi_connection
        self._sending = threading.Lock()
        self._works = True
        self._was_interrupted = False

    def __enter__(self) -> None:
        self._call.interrupt_by(self._interrupt_soon)

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call.interrupt_by(None)
        # Whoever is about to interrupt does so before the end, or not at all.
        with self._sending:
            self._works = False
        if self._was_interrupted:
            self._connection.invalidate()
            raise CallOver from raised

    def _interrupt_soon(self) -> None:
        # It takes a connection of its own to PostgreSQL, for which those who end calls cannot wait.
        with contextlib.suppress(RuntimeError):  # At the end of the process there are no threads for it any more.
            self._interrupters.submit(self._interrupt)

    def _interrupt(self) -> None:
        # Again and again: one that comes between two statements has no effect.
        while self._interrupted():
            time.sleep(LOOK_SECONDS)

    def _interrupted(self) -> bool:
        """Interrupt, and return whether there was something to interrupt."""
        with self._sending:
            if not self._works:
                return False
            self._was_interrupted = True
            try:
                interrupt(self._driver)
            except Exception as error:
                log.info("what was done for a call that is over goes on for now: %s", error)
            return True
