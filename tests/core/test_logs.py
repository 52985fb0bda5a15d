"""Lines come out whole and in order, from however many processes; and what cannot be written holds up nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from server.core.logs import LAST_SECONDS, MAX_WAITING, LogHandler


class Lines:
    """A logger whose process writes its own lines, and what it wrote."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.handler = LogHandler(self.stream)
        self.logger = logger_of(self.handler)

    def written(self) -> list[dict[str, object]]:
        return [orjson.loads(line) for line in self.stream.getvalue().splitlines()]


def logger_of(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("tests.lines", logging.INFO)
    logger.addHandler(handler)
    return logger


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe that takes one page."""
    read, write = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 4096)
    yield read, write
    for end in (read, write):
        with contextlib.suppress(OSError):
            os.close(end)


def fill(write: int) -> None:
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"\n" * 4096)
    os.set_blocking(write, True)


def read_lines(read: int, until: str) -> list[dict[str, Any]]:
    """What comes out of a pipe up to a message."""
    found: list[dict[str, Any]] = []
    with open(os.dup(read)) as reader:
        while not (found and found[-1]["message"] == until):
            if (line := reader.readline()) != "\n":
                found.append(orjson.loads(line))
    return found


def test_a_line_has_the_record_and_its_fields(lines: Lines) -> None:
    fields: dict[str, object] = {"method": "/a/B", "milliseconds": 1.5, "user": None}
    lines.logger.info("call %d", 1, extra={"fields": fields})
    [line] = lines.written()
    assert line.pop("time")
    assert line == {"level": "INFO", "logger": "tests.lines", "message": "call 1", **fields}


def test_a_process_without_the_thread_has_written_a_warning_when_it_goes_on(lines: Lines) -> None:
    lines.logger.warning("before the workers fork")
    assert [line["message"] for line in lines.written()] == ["before the workers fork"]


def test_a_line_that_cannot_be_made_is_one_that_says_so(lines: Lines) -> None:
    lines.logger.info("before")
    lines.logger.info("%d is no number", "x")
    lines.logger.info("behind")
    before, broken, behind = lines.written()
    assert (before["message"], behind["message"]) == ("before", "behind")
    assert (broken["level"], broken["logger"]) == ("ERROR", "tests.lines")
    assert "'%d is no number'" in str(broken["message"])
    assert "TypeError" in str(broken["message"])


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_stream_that_takes_nothing_gets_the_later_lines_once_it_takes_them_again(
    in_thread: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.RawIOBase):
        is_full = True
        taken = b""
        told = threading.Event()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if self.is_full:
                raise OSError(errno.ENOSPC, "no space")
            self.taken += bytes(data)
            if b'"told"' in self.taken:
                self.told.set()
            return len(data)

    full = Full()
    handler = LogHandler(io.TextIOWrapper(io.BufferedWriter(full)))
    logger = logger_of(handler)
    if in_thread:
        handler.start()
    for number in range(1000):
        logger.info("lost %d %s", number, "x" * 100)
    while not handler.queue.empty():
        pass
    full.is_full = False
    logger.warning("told")
    assert full.told.wait(60)
    assert [orjson.loads(line)["level"] for line in full.taken.splitlines()][-1] == "WARNING"
    assert capsys.readouterr().err == ""


def test_calls_wait_for_no_reader_and_are_told_how_many_lines_were_dropped(pipe: tuple[int, int]) -> None:
    read, write = pipe
    fill(write)
    with open(write, "w", closefd=False) as stream:
        handler = LogHandler(stream)
        logger = logger_of(handler)
        handler.start()
        for number in range(MAX_WAITING + 10):
            logger.info("%d", number)
        received: list[dict[str, Any]] = []
        reading = threading.Thread(target=lambda: received.extend(read_lines(read, "last")))
        reading.start()
        while handler.queue.qsize() >= MAX_WAITING:
            pass
        logger.info("last")
        reading.join(60)
        handler.stop()
    *_, told, last = received
    kept = [line["message"] for line in received[:-2]]
    dropped = MAX_WAITING + 10 - len(kept)
    assert kept == [str(number) for number in range(len(kept))]
    assert 0 < dropped <= 10
    assert (told["level"], told["message"]) == ("WARNING", f"{dropped} lines were dropped")
    assert last["message"] == "last"


def test_what_was_dropped_is_told_also_when_no_line_follows(pipe: tuple[int, int]) -> None:
    read, write = pipe
    fill(write)
    told: list[int] = []

    def read_until_told(dropped: int) -> None:
        with open(os.dup(read)) as reader:
            while sum(told) < dropped:
                line = reader.readline()
                if found := re.search(r"(\d+) lines were dropped", line):
                    told.append(int(found[1]))

    with open(write, "w", closefd=False) as stream:
        handler = LogHandler(stream)
        logger = logger_of(handler)
        handler.start()
        for number in range(MAX_WAITING + 1000):
            logger.info("%d", number)
        dropped = handler.dropped
        reading = threading.Thread(target=read_until_told, args=(dropped,), daemon=True)
        reading.start()
        reading.join(60)
        assert dropped > 0
        assert sum(told) == dropped == handler.dropped
        handler.stop()


def test_the_end_waits_little_for_a_reader_that_has_stalled(pipe: tuple[int, int]) -> None:
    read, write = pipe
    fill(write)
    with open(write, "w", closefd=False) as stream:
        handler = LogHandler(stream)
        handler.start()
        logger_of(handler).warning("late")
        stopping = threading.Thread(target=handler.stop)
        stopping.start()
        stopping.join(LAST_SECONDS + 60)
        assert not stopping.is_alive()
        assert read_lines(read, "late")


def test_a_process_without_the_thread_waits_for_no_reader_and_writes_later_what_had_no_room(
    pipe: tuple[int, int],
) -> None:
    read, write = pipe
    fill(write)
    with open(write, "w") as stream:
        logger = logger_of(LogHandler(stream))
        sent = [f"{number} {'x' * 700}" for number in range(20)]
        for message in sent:
            logger.warning(message)
        os.read(read, 4096)
        received: list[dict[str, Any]] = []
        reading = threading.Thread(target=lambda: received.extend(read_lines(read, "last")))
        reading.start()
        while reading.is_alive():
            logger.warning("last")
    assert [line["message"] for line in received[:-1]] == sent


def test_a_process_without_the_thread_does_not_wait_for_the_rest_of_a_long_line(pipe: tuple[int, int]) -> None:
    read, write = pipe
    fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 4 * 4096)
    fill(write)
    os.read(read, 4096)
    with open(write, "w") as stream:
        handler = LogHandler(stream)
        logging_ = threading.Thread(target=logger_of(handler).warning, args=("x" * 100_000,), daemon=True)
        logging_.start()
        logging_.join(60)
        is_blocked = logging_.is_alive()
        received: list[dict[str, Any]] = []
        reading = threading.Thread(target=lambda: received.extend(read_lines(read, "x" * 100_000)), daemon=True)
        reading.start()
        while not is_blocked and not handler.write_waiting():
            pass
        reading.join(60)
    assert not is_blocked
    assert len(received) == 1


def test_lines_that_cannot_be_written_are_counted() -> None:
    with open("/dev/full", "w") as full:
        handler = LogHandler(full)
        for _ in range(3):
            logger_of(handler).warning("lost")
    assert handler.dropped == 3


PRINTING = """
import sys, threading, warnings
from server.core.logs import configure_logs, start_log_thread, stop_log_thread

configure_logs()
start_log_thread()
print("printed", "in parts", file=sys.stderr)
warnings.warn("a warning of Python")
failing = threading.Thread(target=lambda: 1 / 0)
failing.start()
failing.join()
stop_log_thread()
"""


def test_what_is_printed_to_standard_error_becomes_lines_of_the_log() -> None:
    process = subprocess.run([sys.executable, "-c", PRINTING], stderr=subprocess.PIPE, timeout=60, check=True)
    lines = [orjson.loads(line) for line in process.stderr.splitlines()]
    assert {(line["logger"], line["level"]) for line in lines} == {("stderr", "WARNING")}
    printed = [line["message"] for line in lines]
    assert printed[0] == "printed in parts"
    assert "a warning of Python" in printed[1]
    assert printed[-1] == "ZeroDivisionError: division by zero"


PROCESSES = """
import logging, os, sys
from server.core.logs import configure_logs, start_log_thread, stop_log_thread

configure_logs()
logging.warning("before the fork")
workers = []
for worker in range(4):
    if (pid := os.fork()) == 0:
        start_log_thread()
        for number in range(500):
            logging.info("line", extra={"fields": {"worker": worker, "number": number, "more": "x" * (number * 7)}})
        stop_log_thread()
        os._exit(0)
    workers.append(pid)
for pid in workers:
    os.waitpid(pid, 0)
logging.warning("behind")
"""


def test_the_lines_of_several_processes_come_out_of_one_pipe_whole() -> None:
    process = subprocess.run([sys.executable, "-c", PROCESSES], stderr=subprocess.PIPE, timeout=60, check=True)
    first, *lines, last = [orjson.loads(line) for line in process.stderr.splitlines()]
    assert (first["message"], last["message"]) == ("before the fork", "behind")
    for worker in range(4):
        assert [line["number"] for line in lines if line["worker"] == worker] == list(range(500))
