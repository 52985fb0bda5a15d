"""Lines are made in another thread than the one that logs, and come out the same."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import orjson
import pytest

from server.logs import LineHandler, log_fields


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
    log_fields(lines.logger, "call", fields)
    usual, ours = lines.written()
    assert usual.pop("time") <= ours.pop("time")  # type: ignore[operator]
    assert ours == usual == {"level": "INFO", "logger": "tests.lines", "message": "call", **fields}


def test_fields_below_the_level_are_not_logged(lines: Lines) -> None:
    lines.logger.setLevel(logging.WARNING)
    log_fields(lines.logger, "call", {})
    assert lines.written() == []


def test_a_line_that_cannot_be_made_takes_no_other_along(lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    lines.logger.info("before")
    lines.logger.info("%d is no number", "x")
    lines.logger.info("behind")
    assert [line["message"] for line in lines.written()] == ["before", "behind"]
    assert "%d is no number" in capsys.readouterr().err


def test_a_line_needs_no_lock(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of Python 3.13 logging takes the handler's lock without asking whether there is one."""

    def handle(handler: logging.Handler, record: logging.LogRecord) -> None:
        with handler.lock:  # type: ignore[union-attr]
            handler.emit(record)

    monkeypatch.setattr(logging.Handler, "handle", handle)
    lines.logger.info("call")
    assert [line["message"] for line in lines.written()] == ["call"]
