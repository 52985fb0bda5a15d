"""Logs as JSON, one object a line: escaping makes it impossible to forge a line from within a request.

No call waits for its line: `LogHandler` queues records, and in a process that serves calls a thread writes them. If the
reader of the log stalls, further lines are dropped and counted. What is printed to standard error there becomes lines
of the log. A process without threads writes what the reader takes at once, and the rest when it is asked again.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from logging.handlers import QueueHandler, QueueListener
from queue import Empty, SimpleQueue
from typing import Any, TextIO

import orjson

from server.core.nonblocking_output import write_at_once
from server.core.uuids import new_uuid

# So many lines wait for a reader that has stalled; further ones are dropped.
MAX_WAITING = 10_000
# How long lines gather before they are written: a thread that is woken for each costs calls more than their lines do.
GATHER_SECONDS = 0.1
# How long the end of a process waits for a reader that has stalled.
LAST_SECONDS = 0.5

# Names lines that were printed.
_printed = logging.getLogger("stderr")

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, whatever the record brings as `fields`, and the stack trace if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line = {
            "time": f"{_second(int(record.created))}.{int(record.created * 1000) % 1000:03}+00:00",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line).decode()
        except TypeError:  # Halves of surrogate pairs, and whatever else has no form in UTF-8.
            return json.dumps(line, default=str)


class LogHandler(QueueHandler):
    """Writes lines to a stream: in the thread that logs as far as the stream has room, or in one of its own."""

    def __init__(self, stream: TextIO):
        super().__init__(SimpleQueue())
        self.queue: SimpleQueue[logging.LogRecord]
        self._writer = _Writer(stream)
        self._writer.setFormatter(JsonFormatter())
        self._listener: _Listener | None = None
        # The rest of a line that had no room, in a process without the thread.
        self._rest = b""
        self._dropped = 0
        self._told = 0

    @property
    def dropped(self) -> int:
        """How many lines this process has dropped, since their reader had stalled or they could not be written."""
        return self._dropped + self._writer.failed

    def start(self) -> None:
        """Write in a thread from now on. Not in a process that forks, where threads would be left behind."""
        # What waits in the queue of the process that forked this one is for that one to write and to count.
        self.queue, self._rest = SimpleQueue(), b""
        self._dropped = self._told = self._writer.failed = 0
        self._listener = _Listener(self.queue, self._writer, self._tell_of_last_dropped)
        self._listener.start()

    def stop(self) -> None:
        """Write what waits, for LAST_SECONDS at most."""
        if self._listener is not None:
            self._tell_of_last_dropped()
            stopping = threading.Thread(target=self._listener.stop, daemon=True)
            stopping.start()
            stopping.join(LAST_SECONDS)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave the record as it is: the queue stays in this process, and the writer formats it."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record, or count it as dropped. Called with the handler's lock held."""
        if self.queue.qsize() >= MAX_WAITING:
            self._dropped += 1
            return
        self._tell_of_dropped()
        self.queue.put_nowait(record)
        if self._listener is None:
            self._write_waiting()

    def write_waiting(self) -> bool:
        """Write what waits, as far as the stream has room, and return whether that was all; without the thread."""
        self.acquire()
        try:
            return self._write_waiting()
        finally:
            self.release()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name for it
        """Count a record that could not be queued: to tell of it could wait, or fail in the same way."""
        self._dropped += 1

    def _write_waiting(self) -> bool:
        while self._rest or not self.queue.empty():
            self._rest = self._writer.rest_of(self._rest or self._writer.line(self.queue.get_nowait()))
            if self._rest:
                return False
        return True

    def _tell_of_last_dropped(self) -> None:
        """Tell of what was dropped with no line behind it."""
        self.acquire()
        try:
            self._tell_of_dropped()
        finally:
            self.release()

    def _tell_of_dropped(self) -> None:
        if dropped := self._dropped - self._told:
            text = "%d lines were dropped"
            self.queue.put_nowait(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (dropped,), None))
            self._told = self._dropped


class _Writer(logging.StreamHandler[TextIO]):
    failed = 0

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line; if it cannot be made, one that says so."""
        try:
            return super().format(record)
        except Exception as error:
            text, values = "no line can be made of %r: %r", (record.msg, error)
            return super().format(logging.LogRecord(record.name, logging.ERROR, "", 0, text, values, None))

    def line(self, record: logging.LogRecord) -> bytes:
        """Return the line of a record as it is written."""
        return f"{self.format(record)}{self.terminator}".encode()

    def rest_of(self, line: bytes) -> bytes:
        """Write as much of a line as there is room for, and return the rest of it."""
        try:
            return line[write_at_once(self.stream, line) :]
        except OSError:
            self.failed += 1
            return b""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name for it
        """Count a line that cannot be written: where that is so, nothing can be told of it."""
        if isinstance(sys.exception(), OSError):
            self.failed += 1
        else:
            super().handleError(record)


class _Listener(QueueListener):
    queue: SimpleQueue[logging.LogRecord | None]

    def __init__(self, queue: SimpleQueue[logging.LogRecord], writer: _Writer, when_empty: Callable[[], None]):
        super().__init__(queue, writer)
        self._when_empty = when_empty

    def dequeue(self, block: bool) -> Any:
        """Return the next record; once there is none, let some gather."""
        try:
            return self.queue.get_nowait()
        except Empty:
            self._when_empty()
            time.sleep(GATHER_SECONDS)
            return self.queue.get(block)


class _PrintedLines(io.TextIOBase):
    """Makes lines of the log of what is printed: warnings of Python, the traceback of a thread that failed."""

    def __init__(self) -> None:
        self._begun = threading.local()

    def write(self, text: str) -> int:
        """Log the lines that are complete, and keep the rest until it is."""
        *lines, self._begun.line = (getattr(self._begun, "line", "") + text).split("\n")
        for line in filter(None, lines):
            _printed.warning("%s", line)
        return len(text)


def request_id_of(sent: Iterable[str]) -> str:
    """Return the caller's `x-request-id`, so that its logs and ours can be joined; a new one if it sent none."""
    return next(filter(_REQUEST_ID.fullmatch, sent), None) or new_uuid()


def configure_logs() -> None:
    """Send everything from INFO up to standard error; standard output is for what people asked for."""
    # What no line says need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.INFO, handlers=[LogHandler(sys.stderr)], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def start_log_thread() -> None:
    """Let no thread of this process wait for the log from now on. For a process that forks no more."""
    for handler in _handlers():
        handler.start()
    # Its reader could stall as that of the log does, of which it is the same stream.
    sys.stderr = _PrintedLines()


def write_waiting_lines() -> bool:
    """Write lines that had no room, as far as they have it now, and return whether all are written.

    For a process without the thread.
    """
    return all(handler.write_waiting() for handler in _handlers())


def dropped_lines() -> int:
    """Return how many lines this process has dropped since it was started."""
    return sum(handler.dropped for handler in _handlers())


def stop_log_thread() -> None:
    """Write the last lines, at the end of a process."""
    for handler in _handlers():
        handler.stop()


def _handlers() -> list[LogHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, LogHandler)]


@lru_cache(2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
