"""How commands print, ask and fail: JSON for programs, tables for people, one line for an error.

Names and comments come from other users: control characters and invisible ones are printed as escapes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TextIO

import typer
from google.protobuf.message import Message

from modelregistry.v1.compatibility_pb2 import CompatibilityFinding
from server.codec.json_form import dumps, to_json

if TYPE_CHECKING:
    from rich.table import Table

MAX_WIDTH = 10_000
FINDING = ("rule", "severity", "path", "message")
_EARLIER = "earlierVersionNumber"


def show(message: Message, output: Literal["json", "table"] = "json") -> None:
    """Print a message in the contract's JSON, or as a table."""
    if output == "json":
        print(json_text(message, indent=2))
        return
    value: dict[str, Any] = to_json(message)
    rows = value["data"] if isinstance(value.get("data"), list) else [value]
    match [_flat(row) for row in rows]:
        case []:
            print("nothing")
        case [only]:
            show_fields(only)
        case several:
            show_rows(several)
    if token := value.get("nextPageToken"):
        say(f"there is more: --page-token {token}")


def show_fields(row: Mapping[str, str]) -> None:
    """Print one thing as names and values, where long values have room."""
    table = _table("field", "value")
    for name, cell in row.items():
        table.add_row(escaped(name), escaped(cell))
    _print(table, sys.stdout)


def show_rows(rows: Iterable[Mapping[str, str]], file: TextIO | None = None) -> None:
    """Print one thing a line, on standard output if nothing else is given."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = _table(*map(escaped, columns))
    for row in rows:
        table.add_row(*(escaped(row.get(name, "")) for name in columns))
    _print(table, file or sys.stdout)


def show_findings(
    findings: Sequence[CompatibilityFinding], error_count: int, warning_count: int, file: TextIO | None = None
) -> None:
    """Print what a comparison found; nothing if that is nothing. The counts are of all, also of those left out."""
    if findings:
        values = [to_json(finding) for finding in findings]
        # Which version of the branch was compared with, where that is not the head.
        of_others = [_EARLIER] if any(_EARLIER in value for value in values) else []
        show_rows([{name: str(value.get(name, "")) for name in (*FINDING, *of_others)} for value in values], file)
    if more := error_count + warning_count - len(findings):
        say(f"and {more} more")


def json_text(message: Message, indent: int | None = None) -> str:
    """Return the contract's JSON of a message, with escapes for what a terminal would not show as it is."""
    lines = dumps(message, indent).split("\n")
    return "\n".join(line if line.isprintable() else "".join(map(_json_escaped, line)) for line in lines)


def escaped(text: str) -> str:
    """Return text on one line, without anything that a terminal obeys or does not show."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def say(text: str) -> None:
    """Print a line that is not part of the answer, on standard error."""
    print(escaped(text), file=sys.stderr)


def fail(problem: str, exit_code: int = 1) -> NoReturn:
    """Say in one line what is wrong, and exit."""
    say(f"error: {problem}")
    raise typer.Exit(exit_code)


def require_unix(command: str) -> None:
    """Fail on Windows. For commands that serve or open a database: workers are forked, and take turns at Unix locks."""
    if not hasattr(os, "fork"):
        fail(
            f"modelregistry {command} does not run on Windows, since servers and their databases need Linux or macOS:"
            " run it there, in WSL or in a container, and call that server from here with --target"
        )


def can_ask() -> bool:
    """Whether standard input and standard error are a terminal, so that questions can be answered."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def ask(question: str) -> str:
    """Return the answer to a question; nothing if the terminal is closed."""
    print(question, end=" ", file=sys.stderr, flush=True)
    answer = sys.stdin.buffer.readline()
    if not answer.endswith(b"\n"):
        print(file=sys.stderr)  # What comes next must not stand behind the question.
    return answer.decode(errors="replace").strip()


def _json_escaped(sign: str) -> str:
    return sign if sign.isprintable() else json.dumps(sign)[1:-1]


def _flat(row: dict[str, Any]) -> dict[str, str]:
    """Return what fits into a cell each: the Model API as counts, a source as its type, a branch's head as its RID."""
    cells: dict[str, str] = {}
    for key, value in row.items():
        match key, value:
            case "modelApi", dict():
                cells["inputs"], cells["outputs"] = str(len(value["inputs"])), str(len(value["outputs"]))
            case "source", dict():
                cells[key] = value.get("type", "")
            case "head", dict():
                cells |= {name: cell for name, cell in _flat(value).items() if name in {"rid", "createdTime"}}
            case "policyChange", dict():
                cells[key] = f"of a {'folder' if value['type'] == 'folder' else 'branch'}"
            case "findings", list():
                pass  # errorCount and warningCount stand beside them
            case "approvals", list():
                cells[key] = ", ".join(f"{each['given']} of {each['required']}" for each in value)
            case "reviews", list():
                cells[key] = ", ".join(f"{each['reviewedBy']} {each['verdict']}" for each in value)
            case _, list():
                cells[key] = ", ".join(map(str, value))
            case _:
                cells[key] = str(value)
    return cells


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(*columns, box=SIMPLE_HEAD)


def _print(table: Table, file: TextIO) -> None:
    from rich.console import Console

    # As wide as the cells are: a RID that is cut cannot be copied.
    # And as they are: a requirement like pandas[excel] is no markup.
    # Of a terminal called dumb, rich believes the width only if the height is given too.
    Console(file=file, width=MAX_WIDTH, height=25, markup=False, emoji=False, highlight=False).print(table)
