"""Lines are made in another thread than the one that logs, and come out the same."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from server.core.logs import LineHandler, ServingLogger


class Lines:
    """A logger, and what it wrote."""

    def __init__(self) -> None:
        self.stream = io.BytesIO()
        self.handler = LineHandler(self.stream)
        self.logger = logging.Logger("tests.lines", logging.INFO)
        self.logger.addHandler(self.handler)

    def written(self) -> list[dict[str, object]]:
        self.handler.flush()
        return [orjson.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines = Lines()
    yield lines
    lines.handler.close()


def test_fields_are_logged_as_the_library_would(lines: Lines) -> None:
    fields: dict[str, object] = {"method": "/a/B", "milliseconds": 1.5, "user": None}
    lines.logger.info("call", extra={"fields": fields})
    ServingLogger(lines.logger).log_fields("call", fields)
    usual, ours = lines.written()
    assert usual.pop("time") <= ours.pop("time")  # type: ignore[operator]
    assert ours == usual == {"level": "INFO", "logger": "tests.lines", "message": "call", **fields}


def test_fields_below_the_level_are_not_logged(lines: Lines) -> None:
    lines.logger.setLevel(logging.WARNING)
    ServingLogger(lines.logger).log_fields("call", {})
    assert lines.written() == []


def test_a_line_that_cannot_be_made_takes_no_other_along(lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    lines.logger.info("before")
    lines.logger.info("%d is no number", "x")
    lines.logger.info("behind")
    assert [line["message"] for line in lines.written()] == ["before", "behind"]
    assert "%d is no number" in capsys.readouterr().err


def test_a_handler_that_raises_costs_whoever_logs_nothing_but_the_line() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(record)

    logger = logging.Logger("tests.broken", logging.INFO)
    logger.addHandler(Broken())
    with pytest.raises(RuntimeError):
        logger.info("as it is")
    serving = ServingLogger(logger)
    serving.info("%s", "guarded", extra={"fields": {}})
    serving.error("guarded", exc_info=True)
    serving.log_fields("guarded", {})


def test_a_stream_that_takes_nothing_gets_the_later_lines_once_it_takes_them_again(lines: Lines) -> None:
    class Full(io.RawIOBase):
        is_full = True
        taken = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if self.is_full:
                raise OSError(errno.ENOSPC, "no space")
            self.taken += bytes(data)
            return len(data)

    full = Full()
    handler = LineHandler(io.BufferedWriter(full))
    lines.logger.addHandler(handler)
    for number in range(1000):
        lines.logger.info("lost %d %s", number, "x" * 100)
    handler.flush()
    full.is_full = False
    lines.logger.warning("told")
    handler.flush()
    handler.close()
    assert orjson.loads(full.taken.splitlines()[-1])["message"] == "told"


def test_a_warning_waits_for_no_reader_once_lines_are_written_in_the_background(lines: Lines) -> None:
    reads = threading.Event()

    class Stalled(io.BytesIO):
        def write(self, data: Any) -> int:
            assert reads.wait(60)
            return super().write(data)

    stalled = Stalled()
    handler = LineHandler(stalled)
    handler.start()
    lines.logger.addHandler(handler)
    for _ in range(3):
        lines.logger.warning("told later")
    assert not stalled.getvalue()
    reads.set()
    handler.flush()
    assert len(stalled.getvalue().splitlines()) == 3
    handler.close()


def test_a_full_pipe_holds_up_nothing() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    os.set_blocking(write, True)
    with open(write, "wb") as pipe:
        handler = LineHandler(pipe)
        logging.Logger("tests.full", logging.INFO).addHandler(handler)
        record = logging.makeLogRecord({"levelno": logging.WARNING, "msg": "told never"})
        handler.handle(record)
        handler.flush()
        os.close(read)


def test_no_line_is_lost_where_a_reader_falls_behind() -> None:
    read, write = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 4096)
    sent = [f"{number} {'x' * 700}" for number in range(50)]
    received = b""
    with open(read, "rb", buffering=0) as reader, open(write, "wb") as pipe:
        handler = LineHandler(pipe)
        for message in sent:
            handler.handle(logging.makeLogRecord({"levelno": logging.WARNING, "msg": message}))
        while received.count(b"\n") < len(sent):
            handler.flush()
            received += reader.read(4096)
    assert [orjson.loads(line)["message"] for line in received.splitlines()] == sent
