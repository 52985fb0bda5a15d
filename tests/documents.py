"""Reads what the documents say, so that tests can hold it to the code."""

from __future__ import annotations

import itertools


def table(document: str, heading: str, index: int = 0) -> list[list[str]]:
    """The cells of a table under a heading, by default of the first one, without its head."""
    section = document.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    grouped = itertools.groupby(section.splitlines(), key=lambda line: line.startswith("|"))
    tables = [list(lines) for is_table, lines in grouped if is_table]
    return [
        [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")] for line in tables[index][2:]
    ]
