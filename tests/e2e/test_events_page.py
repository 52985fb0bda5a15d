"""docs/events.md, typed into a shell line by line, prints what it shows, also while its server is started again."""

from __future__ import annotations

import pytest

from tests.e2e.pages import DOCS, name_of, printed_by, require_shown, sessions
from tests.postgres import unused_port

SESSIONS = sessions((DOCS / "events.md").read_text())


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each command prints, in one shell, which starts the server itself."""
    folder = tmp_path_factory.mktemp("page") / "empty folder"
    folder.mkdir()
    address, http = (f"127.0.0.1:{unused_port()}" for _ in range(2))
    # Whatever fails, nothing that it has started is left.
    before = "trap 'kill $(jobs -p) 2> /dev/null' EXIT\n"
    before += f"export MODELREGISTRY_LISTEN={address} MODELREGISTRY_HTTP_LISTEN={http}\n"
    return printed_by(SESSIONS, folder, {50051: address}, before)


@pytest.mark.parametrize("number", range(len(SESSIONS)), ids=lambda number: name_of(SESSIONS[number]))
def test_what_is_shown_is_what_is_printed(number: int, printed: list[str]) -> None:
    assert len(printed) == len(SESSIONS)
    require_shown(SESSIONS[number].shown, printed[number])
