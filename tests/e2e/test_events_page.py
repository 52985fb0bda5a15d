"""docs/events.md, typed into a shell line by line, prints what it shows."""

from __future__ import annotations

import pytest

from tests.e2e.pages import DOCS, name_of, printed_by, require_shown, sessions
from tests.processes import Server

SESSIONS = sessions((DOCS / "events.md").read_text())


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each command prints, in one shell, with a server in the same folder."""
    folder = tmp_path_factory.mktemp("page") / "empty folder"
    with Server(folder) as server:
        return printed_by(SESSIONS, folder, {50051: server.address})


@pytest.mark.parametrize("number", range(len(SESSIONS)), ids=lambda number: name_of(SESSIONS[number]))
def test_what_is_shown_is_what_is_printed(number: int, printed: list[str]) -> None:
    assert len(printed) == len(SESSIONS)
    require_shown(SESSIONS[number].shown, printed[number])
