"""A server as a process, and what can be promoted there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import grpc
import pytest

from tests.gateway.registry import Registry
from tests.processes import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("gateway") / "cwd") as server:
        yield server


@pytest.fixture
def registry(server: Server) -> Iterator[Registry]:
    with grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        source = admin.create_version(admin.create_model(f"source {uuid.uuid4()}"))
        yield Registry(server, admin, source, admin.create_model(f"target {uuid.uuid4()}"))
