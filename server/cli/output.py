"""How commands print: JSON for programs, tables for people, and one clear line for an error."""

from __future__ import annotations

import sys
from typing import Any, Literal, NoReturn

import typer
from google.protobuf.message import Message
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from server.json_form import dumps, to_json

MAX_WIDTH = 10_000


def show(message: Message, output: Literal["json", "table"] = "json") -> None:
    """Print a message in the contract's JSON, or as a table."""
    if output == "json":
        print(dumps(message, indent=2))
        return
    value: dict[str, Any] = to_json(message)
    rows = value["data"] if isinstance(value.get("data"), list) else [value]
    # As wide as the cells are: a RID that is cut cannot be copied.
    # And as they are: a requirement like pandas[excel] is no markup.
    console = Console(width=MAX_WIDTH, markup=False, emoji=False, highlight=False)
    console.print(_table([_flat(row) for row in rows]) if rows else "nothing")
    if token := value.get("nextPageToken"):
        say(f"there is more: --page-token {token}")


def say(text: str) -> None:
    """Tell the person something, in one line, that is not part of the answer."""
    # What it quotes may come from elsewhere: no line breaks, nothing that a terminal obeys.
    escaped = (sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    print("".join(escaped), file=sys.stderr)


def fail(problem: str, exit_code: int = 1) -> NoReturn:
    """Say in one line what is wrong, and exit."""
    say(f"error: {problem}")
    raise typer.Exit(exit_code)


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
            case _, list():
                cells[key] = ", ".join(map(str, value))
            case _:
                cells[key] = str(value)
    return cells


def _table(rows: list[dict[str, str]]) -> Table:
    """One row a line; a single row as name and value, where long values have room."""
    if len(rows) == 1:
        table = Table("field", "value", box=SIMPLE_HEAD)
        for name, cell in rows[0].items():
            table.add_row(name, cell)
        return table
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns, box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(row.get(name, "") for name in columns))
    return table
