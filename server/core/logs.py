"""Logs as JSON, one object a line: escaping makes it impossible to forge a line from within a request.

A call does not wait for its line to be made and written: a thread of its own does so for all lines that came together,
which takes less time for each.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO

import orjson

# How long a line waits at most, unless it is a warning or worse: that is written at once.
WRITE_SECONDS = 0.1
# What a reader that has stalled costs: further lines are dropped, and how many is told.
MAX_WAITING = 10_000
# What a pipe takes in one piece, so that processes that share it do not write into each other's lines.
_PIECE_BYTES = 4096


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


class ServingLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger for code that serves calls: a handler that raises costs a line, and never a call its answer."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Leave everything as it is; by default the adapter replaces `extra`."""
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log. A failure of that has no place where it could be told: the log would be it."""
        with contextlib.suppress(Exception):
            super().log(level, msg, *args, **kwargs)

    def log_fields(self, message: str, fields: dict[str, object]) -> None:
        """Log a message with fields at INFO, in half the time of `info`: without looking for the line of code."""
        if self.isEnabledFor(logging.INFO):
            line = {"levelno": logging.INFO, "levelname": "INFO", "name": self.name, "msg": message, "fields": fields}
            with contextlib.suppress(Exception):
                self.logger.handle(logging.makeLogRecord(line))


def get_logger(name: str) -> ServingLogger:
    """Return the logger of this name."""
    return ServingLogger(logging.getLogger(name))


class LineHandler(logging.Handler):
    """Writes records to a stream, from a thread of its own."""

    def __init__(self, stream: BinaryIO):
        super().__init__()
        self.setFormatter(JsonFormatter())
        self._stream = stream
        self._waiting: deque[logging.LogRecord] = deque()
        self._dropped = 0
        self._writing = threading.Lock()
        self._starting = threading.Lock()
        self._writer: threading.Thread | None = None
        self._urgent = threading.Event()
        self._pieces = self._joined()
        atexit.register(self.flush)

    def handle(self, record: logging.LogRecord) -> bool:
        """Take the record, without the lock around `emit`: behind it, calls would wait for what another one writes."""
        passed = self.filter(record)
        if passed:
            # A filter may return another record, since Python 3.12.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Have the record written: soon, and at once if it is a warning or worse. Safe to share between threads."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(record)
        if record.levelno >= logging.WARNING:
            if self._writer is None:
                self.flush()
            else:
                self._urgent.set()
        elif self._writer is None:
            self.start()

    def start(self) -> None:
        """Write from a thread of its own from now on, so that a reader that stalls holds up nothing else.

        Not before it is wanted: a process that only warns may fork, and threads stay behind.
        """
        with self._starting:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_on, name="logs", daemon=True)
                self._writer.start()

    def flush(self) -> None:
        """Write what waits, as far as there is a reader for it: one that stalls must not keep a process from ending."""
        # A reader that has gone, or a full disk, ends the log and not the server.
        with self._writing, contextlib.suppress(OSError, ValueError):
            while _is_writable(self._stream) and (piece := next(self._pieces)):
                self._stream.write(piece)
                self._stream.flush()

    def _write_on(self) -> None:
        while True:
            self._urgent.wait(WRITE_SECONDS)
            self._urgent.clear()
            if self._waiting:
                self.flush()

    def _joined(self) -> Iterator[bytes]:
        """Join lines to pieces that are written at once, and go on after an empty one, which says that none waits.

        One iterator for good: between two pieces it holds the line that did not fit into the first.
        """
        piece = b""
        while True:
            for line in self._taken():
                if piece and len(piece) + len(line) > _PIECE_BYTES:
                    yield piece
                    piece = b""
                piece += line
            yield piece
            piece = b""

    def _taken(self) -> Iterator[bytes]:
        while self._waiting:
            record = self._waiting.popleft()
            try:
                yield f"{self.format(record)}\n".encode()
            except Exception:
                self.handleError(record)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            record = logging.LogRecord(__name__, logging.WARNING, "", 0, "%d lines were dropped", (dropped,), None)
            yield f"{self.format(record)}\n".encode()


def write_in_background() -> None:
    """Let no thread of this process wait for the log from now on. For a process that forks no more."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.start()


def configure_logs() -> None:
    """Send everything from INFO up to standard error; standard output is for what people asked for."""
    # What no line says need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.INFO, handlers=[LineHandler(sys.stderr.buffer)], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@lru_cache(2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _is_writable(stream: BinaryIO) -> bool:
    """Whether the stream takes a piece at once: for a pipe, that is what select(2) says of it."""
    try:
        return bool(select.select([], [stream.fileno()], [], 0)[1])
    except (OSError, ValueError):  # It is no file.
        return True
