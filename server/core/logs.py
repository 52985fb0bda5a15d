"""Logs as JSON, one object a line: escaping makes it impossible to forge a line from within a request.

No call waits for its line: `LogHandler` queues records, and in a process that serves calls a thread writes them. If the
reader of the log stalls, further lines are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import random
import re
import select
import sys
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from logging.handlers import QueueHandler, QueueListener
from queue import Empty, SimpleQueue
from typing import Any, TextIO

import orjson

# So many lines wait for a reader that has stalled; further ones are dropped.
MAX_WAITING = 10_000
# How long lines gather before they are written: a thread that is woken for each costs calls more than their lines do.
GATHER_SECONDS = 0.1
# How long the end of a process waits for a reader that has stalled.
LAST_SECONDS = 0.5

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
        self._dropped = 0

    def start(self) -> None:
        """Write in a thread from now on. Not in a process that forks, where threads would be left behind."""
        # What waits in the queue of the process that forked this one is for that one to write.
        self.queue = SimpleQueue()
        self._listener = _Listener(self.queue, self._writer)
        self._listener.start()

    def stop(self) -> None:
        """Write what waits, for LAST_SECONDS at most."""
        if self._listener is not None:
            self._tell_of_dropped()
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
            while not self.queue.empty() and _is_writable(self._writer.stream):
                self._writer.handle(self.queue.get_nowait())

    def _tell_of_dropped(self) -> None:
        if self._dropped:
            text, dropped = "%d lines were dropped", self._dropped
            self.queue.put_nowait(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (dropped,), None))
            self._dropped = 0


class _Writer(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name for it
        """Tell of a line that cannot be made; where lines cannot be written, nor can that."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _Listener(QueueListener):
    queue: SimpleQueue[logging.LogRecord | None]

    def dequeue(self, block: bool) -> Any:
        """Return the next record; once there is none, let some gather."""
        try:
            return self.queue.get_nowait()
        except Empty:
            time.sleep(GATHER_SECONDS)
            return self.queue.get(block)


def request_id_of(sent: Iterable[str]) -> str:
    """Return the caller's `x-request-id`, so that its logs and ours can be joined; a new one if it sent none."""
    return next(filter(_REQUEST_ID.fullmatch, sent), None) or new_request_id()


def new_request_id() -> str:
    """Return a UUID. It is no secret, and `uuid.uuid4` takes three times as long."""
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


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


def stop_log_thread() -> None:
    """Write the last lines, at the end of a process."""
    for handler in _handlers():
        handler.stop()


def _handlers() -> list[LogHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, LogHandler)]


@lru_cache(2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _is_writable(stream: TextIO) -> bool:
    """Whether the stream takes a line at once: for a pipe, that is what select(2) says of it."""
    try:
        return bool(select.select([], [stream.fileno()], [], 0)[1])
    except (OSError, ValueError):  # It is no file.
        return True
