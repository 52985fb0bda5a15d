"""What can be promoted in the server that tests share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import grpc
import pytest

from tests.gateway.registry import Registry
from tests.processes import Server


@pytest.fixture
def registry(server: Server) -> Iterator[Registry]:
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        source = admin.create_version(admin.create_model(f"source {uuid.uuid4()}"))
        yield Registry(server, admin, source, admin.create_model(f"target {uuid.uuid4()}"))
