"""A server of one worker process, and a user whom it has to serve whatever others do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Server
from tests.siege.honest import Honest


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "cwd") as server:
        yield server


@pytest.fixture
def honest(server: Server) -> Honest:
    return Honest(server)
