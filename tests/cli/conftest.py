"""A server that the commands are called against."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.cli.stages import Stages, new_stages
from tests.processes import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests share: what they make in it has names and RIDs of its own."""
    with Server(tmp_path_factory.mktemp("server") / "cwd") as server:
        yield server


@pytest.fixture
def stages(server: Server) -> Iterator[Stages]:
    """Two models and what can be promoted between them."""
    with grpc.insecure_channel(server.address) as channel:
        yield new_stages(server, channel)
