"""Logs as JSON, one object a line: escaping makes it impossible to forge a line from within a request.

A call does not wait for its line to be made and written: a thread of its own does so for all lines that came together,
which takes less time for each.
"""

from __future__ import annotations

import atexit
import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import BinaryIO

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


class LineHandler(logging.Handler):
    """Writes records to a stream, from a thread of its own."""

    def __init__(self, stream: BinaryIO):
        super().__init__()
        self.setFormatter(JsonFormatter())
        self._stream = stream
        self._waiting: deque[logging.LogRecord] = deque()
        self._dropped = 0
        self._writing = threading.Lock()
        self._writer: threading.Thread | None = None
        atexit.register(self.flush)

    def createLock(self) -> None:  # noqa: N802 - overrides logging's
        """Have no lock around `emit`, which needs none."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Have the record written unless it is filtered; logging's own, as of Python 3.13, cannot do without a lock."""
        wanted = bool(self.filter(record))
        if wanted:
            self.emit(record)
        return wanted

    def emit(self, record: logging.LogRecord) -> None:
        """Have the record written: soon, and at once if it is a warning or worse."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(record)
        if record.levelno >= logging.WARNING:
            self.flush()
        elif self._writer is None:
            # Not before: who only warns may fork, and threads stay behind.
            self._writer = threading.Thread(target=self._write_on, name="logs", daemon=True)
            self._writer.start()

    def flush(self) -> None:
        """Write what waits."""
        with self._writing:
            try:
                for piece in _pieces(self._taken()):
                    self._stream.write(piece)
                self._stream.flush()
            except (OSError, ValueError):
                return  # Nobody reads it any more; the server goes on serving.

    def _write_on(self) -> None:
        while True:
            time.sleep(WRITE_SECONDS)
            if self._waiting:
                self.flush()

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


def log_fields(logger: logging.Logger, message: str, fields: dict[str, object]) -> None:
    """Log a message with fields, at INFO: as `logger.info` would, without what no line says."""
    if logger.isEnabledFor(logging.INFO):
        record = logging.LogRecord.__new__(logging.LogRecord)
        record.__dict__.update(_USUAL, name=logger.name, msg=message, created=time.time(), fields=fields)
        logger.handle(record)


def configure_logs() -> None:
    """Send everything from INFO up to standard error; standard output is for what people asked for."""
    # What no line says need not be found out.
    logging._srcfile = None  # which logging's own documentation advises
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.INFO, handlers=[LineHandler(sys.stderr.buffer)], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


# What every record has, even if nobody said so.
_USUAL = vars(logging.LogRecord("", logging.INFO, "", 0, "", (), None))


@lru_cache(2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join lines to pieces that are written at once."""
    piece = b""
    for line in lines:
        if piece and len(piece) + len(line) > _PIECE_BYTES:
            yield piece
            piece = b""
        piece += line
    if piece:
        yield piece
