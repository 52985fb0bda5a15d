"""docs/grpcurl.md, typed into a shell line by line, prints what it shows."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.certificates import Authority
from tests.e2e.pages import DOCS, name_of, printed_by, require_shown, sessions
from tests.processes import Server

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
SESSIONS = sessions((DOCS / "grpcurl.md").read_text())


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
        addresses = {50051: server.address, 50052: secure.address, 50053: silent.address}
        return printed_by(SESSIONS, folder, addresses, LOGGED)


def test_the_page_has_sessions_for_all_rpcs_of_which_people_ask() -> None:
    called = set(re.findall(r"\b(?:Model|Promotion|Access)Service/(\w+)", " ".join(each.command for each in SESSIONS)))
    assert called >= {
        *("CreateModel", "CreateModelVersion", "GetModelVersion", "GetBranch", "ListBranches", "ListModelVersions"),
        *("ListModels", "PromoteVersion", "CheckPromotion", "ListPromotions", "GetPromotion", "GetLineage"),
        *("RollbackBranch", "BatchPromoteVersions", "SetBranchPolicy", "GetBranchPolicy"),
        *("GrantRole", "ListGrants", "ListGrantChanges", "RevokeRole"),
    }


@pytest.mark.parametrize("number", range(len(SESSIONS)), ids=lambda number: name_of(SESSIONS[number]))
def test_what_is_shown_is_what_is_printed(number: int, printed: list[str]) -> None:
    assert len(printed) == len(SESSIONS)
    require_shown(SESSIONS[number].shown, printed[number])
