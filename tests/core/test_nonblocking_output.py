"""Writing as much as a stream takes at once: never more, whatever it is and whatever else fills it."""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
from pathlib import Path

import pytest

from server.core.nonblocking_output import write_at_once

DATA = b"0123456789" * 100_000


def test_a_pipe_takes_what_has_room_and_the_rest_later() -> None:
    read, write = os.pipe()
    with open(write, "w") as stream, open(read, "rb", buffering=0) as reader:
        written, received = write_at_once(stream, DATA), b""
        assert 0 < written < len(DATA)
        assert write_at_once(stream, DATA) == 0
        while len(received) < len(DATA):
            received += reader.read(2**20)
            written += write_at_once(stream, DATA[written:])
    assert received == DATA


def test_a_pipe_that_another_process_fills_meanwhile_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with open(write, "w") as stream, open(read, "rb", buffering=0):
        while write_at_once(stream, DATA):
            pass
        # What was true a moment ago.
        monkeypatch.setattr(select, "select", lambda *waits: waits[:3])
        assert write_at_once(stream, DATA) == 0
        assert os.get_blocking(write)


def test_a_socket_is_not_waited_for_either() -> None:
    ours, theirs = socket.socketpair()
    with theirs, open(ours.detach(), "w") as stream:
        assert 0 < write_at_once(stream, DATA) < len(DATA)
        assert os.get_blocking(stream.fileno())


def test_a_file_takes_all_at_its_end(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"before ")
    with file.open("a") as stream:
        assert write_at_once(stream, DATA) == len(DATA)
        assert write_at_once(stream, b" behind") == 7
    assert file.read_bytes() == b"before " + DATA + b" behind"


def test_what_is_no_file_takes_all() -> None:
    stream = io.StringIO()
    assert write_at_once(stream, "é".encode()) == 2
    assert stream.getvalue() == "é"


def test_a_pipe_without_a_reader_is_an_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with contextlib.closing(open(write, "w")) as stream, pytest.raises(BrokenPipeError):
        write_at_once(stream, DATA)
