"""The reference for HTTP clients stays true: limits, and the Python that it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from server.core.config import Settings
from server.gateway import calls, requests
from server.gateway.limits import SHARE, HttpLimits
from server.rpc.status import MAX_VIOLATIONS
from tests.documents import table
from tests.processes import Server, environment

DOCS = Path(__file__).parent.parent / "docs"
REFERENCE = (DOCS / "http.md").read_text()


def test_the_limits_are_those_of_the_code() -> None:
    limits = HttpLimits()
    assert SHARE == 4
    assert [cells[1] for cells in table(REFERENCE, "Limits")] == [
        f"{limits.max_head_bytes >> 10} KiB",
        f"{calls.MAX_FORWARDED_BYTES >> 10} KiB",
        f"{requests.MAX_PARAMETERS}",
        f"`--max-message-bytes`, by default {Settings().max_message_bytes >> 20} MiB",
        f"{limits.max_in_flight}; a quarter",
        f"{limits.max_bytes_in_flight >> 20} MiB; a quarter, and always one body",
        f"{limits.max_unverified}; a quarter",
        f"{limits.max_connections}",
        f"{limits.spare_connections} more",
        f"{limits.max_connections // SHARE}",
        f"{limits.head_seconds:.0f} s",
        f"{limits.body_seconds:.0f} s",
        f"{calls.DEADLINE_SECONDS:.0f} s",
        f"{limits.answer_seconds:.0f} s",
        f"`--http-idle-timeout`, by default {Settings().http_idle_timeout_seconds} s",
        f"{limits.linger_seconds:.0f} s, and as much as a body may have",
    ]
    assert f"Without it, {calls.DEADLINE_SECONDS:.0f} seconds." in REFERENCE
    assert f"at most {MAX_VIOLATIONS}, and then how many more" in REFERENCE


def test_the_python_shown_runs(server: Server) -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", REFERENCE, re.DOTALL)
    assert "127.0.0.1:8080" in shown
    done = subprocess.run(
        [sys.executable, "-c", shown.replace("127.0.0.1:8080", server.url.removeprefix("http://"))],
        capture_output=True,
        text=True,
        check=False,
        env=environment(TOKEN=server.token()),
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ri.models.main.model-version.none is not there\n"


def test_every_linked_file_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", REFERENCE):
        assert (DOCS / target).exists(), target
