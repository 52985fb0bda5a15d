"""Writing to a stream without waiting for its reader, in a process that has no thread for it."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def write_at_once(stream: TextIO, data: bytes) -> int:
    """Write as much as the stream takes now, and return how many bytes these are. Raises OSError."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # It is no file.
        stream.write(data.decode())
        stream.flush()
        return len(data)
    written = 0
    while written < len(data) and (more := _write_some(descriptor, data[written : written + select.PIPE_BUF])):
        written += more
    return written


def _write_some(descriptor: int, data: bytes) -> int:
    """Write no more than a pipe takes if it takes anything."""
    if not select.select([], [descriptor], [], 0)[1]:
        return 0
    # Another process may fill it meanwhile. That a descriptor must not block would hold for all that share it, so it is
    # said to a socket for this once, and elsewhere of a descriptor that this process alone has.
    try:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                return connection.send(data, socket.MSG_DONTWAIT)
        with _own(descriptor) as own:
            return os.write(own, data)
    except BlockingIOError:
        return 0


@contextmanager
def _own(descriptor: int) -> Iterator[int]:
    """Open what a descriptor stands for once more, so that it does not block; the descriptor itself if it cannot be."""
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # It would be written from its beginning, and never blocks.
            raise OSError
        own = os.open(f"/dev/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        yield descriptor
        return
    try:
        yield own
    finally:
        os.close(own)
