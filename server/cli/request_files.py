"""Requests that are read from files, in the contract's JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from server.cli.output import fail
from server.codec.json_form import from_json, loads
from server.core.errors import FieldViolation, InvalidArgument

# As many as the server would list.
MAX_VIOLATIONS = 20

RequestT = TypeVar("RequestT", bound=Message)


def read_request(file: str, request_type: type[RequestT]) -> RequestT:
    """Return the request that `--file` names; fail if it is none. `-` is the standard input."""
    try:
        return from_json(loads(_read(file)), request_type)
    except InvalidArgument as error:
        fail(f"--file {file}: {_told(error.violations)}")


def _read(file: str) -> bytes:
    try:
        if file != "-":
            return Path(file).read_bytes()
        if sys.stdin is None:
            fail("--file -: the standard input is closed")
        return sys.stdin.buffer.read()
    except OSError as error:
        fail(f"--file {file}: {error.strerror}")


def _told(violations: tuple[FieldViolation, ...]) -> str:
    shown = [": ".join(filter(None, violation)) for violation in violations[:MAX_VIOLATIONS]]
    if more := len(violations) - len(shown):
        shown.append(f"and {more} more")
    return "; ".join(shown)
