"""What can be promoted in the server that tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.registry import Registry, new_registry
from tests.processes import Server


@pytest.fixture
def registry(server: Server) -> Iterator[Registry]:
    with new_registry(server) as registry:
        yield registry
