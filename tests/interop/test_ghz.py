"""ghz takes and sends what people write for the HTTP interface, since the server describes itself to it so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.interop.conftest import BUILD_SECONDS, ROOT, pasted, shell_blocks
from tests.processes import Server, environment

PAGE = (ROOT / "docs/grpcurl.md").read_text()

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


def test_the_lines_of_the_page_get_answers(tmp_path: Path) -> None:
    (lines,) = shell_blocks(PAGE)
    programs = tmp_path / "bin"
    with Server(tmp_path / "server") as server:
        promotion = json.loads(server.run("demo", "--prepare").stdout)
        model = promotion["model_rid"]
        # So that there is a branch to read.
        server.json("promote", promotion["source_model_version_rid"], model)
        printed = pasted(
            lines.replace("127.0.0.1:50051", server.address),
            tmp_path,
            GOBIN=str(programs),
            PATH=f"{programs}:{environment()['PATH']}",
            TOKEN=server.token(),
            PRODUCTION=model,
        ).stdout
    assert re.search(r"Status code distribution:\s+\[OK\]\s+200 responses", printed), printed
