"""Downloads through the Python client that nobody reads to their end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelregistry.v1.model_files_pb2 import ModelFiles, UploadedModelFiles
from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    CreateModelVersionRequest,
    DownloadModelFilesRequest,
    UploadModelFilesRequest,
)
from modelregistry_client import Registry, aio, connect
from tests.builders import model_api, new_folder_rid
from tests.processes import Server

# So much that it waits on its way for somebody to read it.
PART, PARTS = b"x" * 2**20, 20
# More than a server sends at a time.
ABANDONED = 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as server:
        yield server


@pytest.fixture
def registry(server: Server) -> Iterator[Registry]:
    with connect(server.address, server.token(), plaintext=True) as registry:
        yield registry


@pytest.fixture
def wanted(registry: Registry) -> DownloadModelFilesRequest:
    """A download of large files."""
    model = registry.models.CreateModel(CreateModelRequest(name="model", parent_folder_rid=new_folder_rid()))
    parts = [UploadModelFilesRequest(model_rid=model.rid, chunk=PART)] * PARTS
    digest = UploadModelFilesRequest(sha256=hashlib.sha256(PART * PARTS).hexdigest())
    uploaded = UploadedModelFiles(upload_id=registry.models.UploadModelFiles(iter([*parts, digest])).upload_id)
    version = registry.models.CreateModelVersion(
        CreateModelVersionRequest(model_rid=model.rid, model_api=model_api(), model_files=ModelFiles(uploaded=uploaded))
    )
    return DownloadModelFilesRequest(model_rid=model.rid, model_version_rid=version.rid)


def test_those_that_threads_abandon_leave_room_for_others(
    registry: Registry, wanted: DownloadModelFilesRequest
) -> None:
    for _ in range(ABANDONED):
        assert next(registry.models.DownloadModelFiles(wanted)).chunk
    assert b"".join(part.chunk for part in registry.models.DownloadModelFiles(wanted)) == PART * PARTS


def test_those_that_tasks_abandon_leave_room_for_others(server: Server, wanted: DownloadModelFilesRequest) -> None:
    async def calls() -> None:
        async with aio.connect(server.address, server.token(), plaintext=True) as registry:
            for _ in range(ABANDONED):
                async for part in registry.models.DownloadModelFiles(wanted):
                    assert part.chunk
                    break
            received = [part.chunk async for part in registry.models.DownloadModelFiles(wanted)]
            assert b"".join(received) == PART * PARTS

    asyncio.run(calls())
