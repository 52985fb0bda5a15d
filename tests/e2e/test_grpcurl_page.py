"""docs/grpcurl.md, typed into a shell line by line, prints what it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.certificates import Authority
from tests.processes import DEADLINE_SECONDS, Server, environment

PAGE = (Path(__file__).parents[2] / "docs/grpcurl.md").read_text()
LEFT_OUT = "…"
# Between what one command prints and what the next one does.
END = "\x1e"
# A line of the log is written a little after the call is answered; a person is slower.
LOGGED = """
grep() {
  for _ in $(seq 600); do
    command grep "$@" && return
    [ "${@: -1}" = server.log ] || return
    sleep 0.05
  done
  return 1
}
"""


class Typed(NamedTuple):
    """A command of the page, and what that says it prints."""

    command: str
    shown: str


def sessions() -> Iterator[Typed]:
    """The commands in the order of the page; lines that begin with `> ` go on with one."""
    for block in re.findall(r"^```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        for session in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            first, *lines = session.splitlines()
            more = [line.removeprefix("> ") for line in lines if line.startswith("> ")]
            yield Typed("\n".join([first, *more]), "\n".join(line for line in lines if not line.startswith("> ")))


SESSIONS = list(sessions())


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each command prints, in one shell, with the servers that the page speaks of."""
    base = tmp_path_factory.mktemp("page")
    folder = base / "empty folder"
    authority = Authority(base / "authority")
    cert, key = authority.issue("server")
    with (
        Server(folder) as server,
        Server(base / "tls", "--tls-cert", cert, "--tls-key", key) as secure,
        Server(base / "silent", "--no-reflection") as silent,
    ):
        shutil.copy(authority.cert, folder / "ca.pem")
        (folder / "server.log").symlink_to(folder.with_name(f"{folder.name}.log"))
        script = "exec 2>&1\n" + LOGGED
        for each in SESSIONS:
            # The exit code stays for the command that asks for it.
            script += f"{each.command}\ncode=$?; printf '{END}'; (exit $code)\n"
        addresses = {50051: server.address, 50052: secure.address, 50053: silent.address}
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
        for port, address in addresses.items():
            shell = subprocess.CompletedProcess(shell.args, 0, shell.stdout.replace(address, f"127.0.0.1:{port}"))
    return shell.stdout.split(END)[:-1]


def test_the_page_has_sessions_for_all_rpcs_of_which_people_ask() -> None:
    called = set(re.findall(r"\b(?:Model|Promotion|Access)Service/(\w+)", " ".join(each.command for each in SESSIONS)))
    assert called >= {
        *("CreateModel", "CreateModelVersion", "GetModelVersion", "GetBranch", "ListBranches", "ListModelVersions"),
        *("ListModels", "PromoteVersion", "CheckPromotion", "ListPromotions", "GetPromotion", "GetLineage"),
        *("RollbackBranch", "BatchPromoteVersions", "SetBranchPolicy", "GetBranchPolicy"),
        *("GrantRole", "ListGrants", "ListGrantChanges", "RevokeRole"),
    }


@pytest.mark.parametrize(
    "number", range(len(SESSIONS)), ids=lambda number: SESSIONS[number].command.split("\n")[0][:60]
)
def test_what_is_shown_is_what_is_printed(number: int, printed: list[str]) -> None:
    assert len(printed) == len(SESSIONS)
    shown, real = (normalised(text) for text in (SESSIONS[number].shown, printed[number]))
    pattern = ".*".join(re.escape(part) for part in shown.split(LEFT_OUT))
    assert re.fullmatch(pattern, real, re.DOTALL), f"{shown}\n--- but printed was\n{real}"


def normalised(text: str) -> str:
    """The text with names for what differs from run to run, and without blanks at the ends of lines."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME", text)
    # An id that is left out in the middle.
    text = re.sub(r"[0-9a-f-]{1,36}…", "…", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
