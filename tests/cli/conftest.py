"""What can be promoted in the server that tests share."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.cli.stages import Stages, new_stages
from tests.processes import Server


@pytest.fixture
def stages(server: Server) -> Iterator[Stages]:
    """Two models and what can be promoted between them."""
    with grpc.insecure_channel(server.address) as channel:
        yield new_stages(server, channel)
