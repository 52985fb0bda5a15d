"""Pages of docs/ that are typed into a shell, line by line, and must print what they show."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.processes import DEADLINE_SECONDS, environment

DOCS = Path(__file__).parents[2] / "docs"
LEFT_OUT = "…"
# Between what one command prints and what the next one does.
END = "\x1e"


class Typed(NamedTuple):
    """A command of a page, and what that says it prints."""

    command: str
    shown: str


def sessions(page: str) -> list[Typed]:
    """The commands of a page in their order; lines that begin with `> ` go on with one."""
    found = []
    for block in re.findall(r"^```\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        for session in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            first, *lines = session.splitlines()
            more = [line.removeprefix("> ") for line in lines if line.startswith("> ")]
            shown = "\n".join(line for line in lines if not line.startswith("> "))
            found.append(Typed("\n".join([first, *more]), shown))
    return found


def printed_by(typed: list[Typed], folder: Path, addresses: Mapping[int, str], before: str = "") -> list[str]:
    """What each command prints, in one shell in a folder; `addresses` are those of the servers at the page's ports."""
    script = f"exec 2>&1\n{before}"
    for each in typed:
        # The exit code stays for the command that asks for it.
        script += f"{each.command}\ncode=$?; printf '{END}'; (exit $code)\n"
    for port, address in addresses.items():
        script = script.replace(f"127.0.0.1:{port}", address)
    shell = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment(),
        timeout=2 * DEADLINE_SECONDS,
    )
    printed = shell.stdout
    for port, address in addresses.items():
        printed = printed.replace(address, f"127.0.0.1:{port}")
    return printed.split(END)[:-1]


def require_shown(shown: str, printed: str) -> None:
    """Fail unless a command has printed what the page shows, but for what differs from run to run or is left out."""
    shown, real = _normalised(shown), _normalised(printed)
    pattern = ".*".join(re.escape(part) for part in shown.split(LEFT_OUT))
    assert re.fullmatch(pattern, real, re.DOTALL), f"{shown}\n--- but printed was\n{real}"


def name_of(typed: Typed) -> str:
    """What a test of a command is called."""
    return typed.command.split("\n")[0][:60]


def _normalised(text: str) -> str:
    """The text with names for what differs from run to run, and without blanks at the ends of lines."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME", text)
    # An id that is left out in the middle.
    text = re.sub(r"[0-9a-f-]{1,36}…", "…", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
