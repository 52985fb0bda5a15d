"""A person at a terminal, who can be asked."""

from __future__ import annotations

import sys


def is_there() -> bool:
    """Whether somebody can read a question and answer it."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def ask(question: str) -> str:
    """Return the answer to a question; nothing if the terminal is closed."""
    print(question, end=" ", file=sys.stderr, flush=True)
    answer = sys.stdin.buffer.readline()
    if not answer.endswith(b"\n"):
        print(file=sys.stderr)  # What comes next must not stand behind the question.
    return answer.decode(errors="replace").strip()
