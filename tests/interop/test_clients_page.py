"""Whoever pastes the lines of docs/clients.md into a shell, in an empty folder, gets to a promoted version."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.interop.conftest import BUILD_SECONDS, ROOT, pasted, shell_blocks
from tests.processes import Server

PAGE = (ROOT / "docs/clients.md").read_text()
LANGUAGES = ["Go", "Java", "TypeScript", "Python"]
# Where the page expects the server.
ADDRESS = "127.0.0.1:50051"

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


def section(title: str) -> str:
    """What stands under a title of the page, up to the next one."""
    [found] = re.findall(rf"^##+ {title}\n(.*?)(?=^##+ |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return found


def test_the_languages_are_those_of_the_page() -> None:
    parts = re.search(r"^## From nothing.*?(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    assert parts
    assert re.findall(r"^### (\w+)$", parts[0], re.MULTILINE) == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pasted_lines_promote(language: str, tmp_path: Path) -> None:
    folder = tmp_path / "empty folder"
    # Of the test, and not of the page: another server may have the default port.
    with Server(folder) as server:
        lines = shell_blocks(section("From nothing to a promoted version") + section(language))
        printed = pasted("".join(lines).replace(ADDRESS, server.address), folder).stdout
        request = json.loads((folder / "request.json").read_text())
        head = server.json("get-branch", request["model_rid"])["head"]
    promoted = json.loads(printed[printed.index("{\n") :])
    assert head["rid"] == promoted["rid"]
    assert promoted["source"]["promoted"]["previousModelVersionRid"] == request["source_model_version_rid"]
