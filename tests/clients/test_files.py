"""Model files through the Python client: from a file to the registry, and from there into a file."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelregistry.v1.model_files_pb2 import ModelFiles, UploadedModelFiles
from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    CreateModelVersionRequest,
    DownloadModelFilesResponse,
    UploadModelFilesResponse,
)
from modelregistry.v1.model_service_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from modelregistry_client import DigestMismatch, DownloadedFiles, aio, connect, errors
from tests.builders import model_api, new_folder_rid
from tests.processes import Server

DATA = os.urandom(3 * 2**20 + 1)
DIGEST = hashlib.sha256(DATA).hexdigest()
VERSION = ("ri.models.main.model.a", "ri.models.main.model-version.a")


class Threads:
    """The calls of the client for threads."""

    def __init__(self, target: str, token: str):
        self._connect = lambda: connect(target, token, plaintext=True)

    def upload(self, model_rid: str, file: Path) -> UploadModelFilesResponse:
        with self._connect() as registry:
            return registry.upload_files(model_rid, file)

    def download(self, *arguments: Any) -> DownloadedFiles:
        with self._connect() as registry:
            return registry.download_files(*arguments)


class Tasks:
    """Those of the client for asyncio."""

    def __init__(self, target: str, token: str):
        self._connect = lambda: aio.connect(target, token, plaintext=True)

    def upload(self, model_rid: str, file: Path) -> UploadModelFilesResponse:
        async def run() -> UploadModelFilesResponse:
            async with self._connect() as registry:
                return await registry.upload_files(model_rid, file)

        return asyncio.run(run())

    def download(self, *arguments: Any) -> DownloadedFiles:
        async def run() -> DownloadedFiles:
            async with self._connect() as registry:
                return await registry.download_files(*arguments)

        return asyncio.run(run())


both = pytest.mark.parametrize("kind", [Threads, Tasks])
Kind = Callable[[str, str], Threads | Tasks]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("files") / "server") as server:
        yield server


@pytest.fixture
def model(server: Server) -> str:
    with connect(server.address, server.token(), plaintext=True) as registry:
        wanted = CreateModelRequest(name="model", parent_folder_rid=new_folder_rid())
        return registry.models.CreateModel(wanted).rid


@both
def test_files_come_back_as_they_were(kind: Kind, server: Server, model: str, tmp_path: Path) -> None:
    calls = kind(server.address, server.token())
    (tmp_path / "file").write_bytes(DATA)
    (tmp_path / "fetched").write_text("what was there before")

    uploaded = UploadedModelFiles(upload_id=calls.upload(model, tmp_path / "file").upload_id)
    files = ModelFiles(uploaded=uploaded)
    request = CreateModelVersionRequest(model_rid=model, model_api=model_api(), model_files=files)
    with connect(server.address, server.token(), plaintext=True) as registry:
        version = registry.models.CreateModelVersion(request)
    fetched = calls.download(model, version.rid, tmp_path / "fetched")

    assert fetched == (len(DATA), DIGEST)
    assert (tmp_path / "fetched").read_bytes() == DATA
    assert (tmp_path / "fetched").stat().st_mode == (tmp_path / "file").stat().st_mode
    assert {path.name for path in tmp_path.iterdir()} == {"file", "fetched"}


@both
def test_a_failure_of_the_call_is_typed_and_leaves_no_file(kind: Kind, server: Server, tmp_path: Path) -> None:
    calls = kind(server.address, server.token())
    (tmp_path / "file").write_bytes(DATA)

    with pytest.raises(errors.ModelNotFound):
        calls.upload("ri.models.main.model.none", tmp_path / "file")
    with pytest.raises(errors.ModelVersionNotFound):
        calls.download("ri.models.main.model.none", VERSION[1], tmp_path / "fetched")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_many_tasks_at_once_are_told_why_they_are_refused(server: Server, tmp_path: Path) -> None:
    """By itself, grpcio hides it from some of them."""
    (tmp_path / "file").write_bytes(DATA)

    async def run() -> set[type]:
        refusals = []
        async with aio.connect(server.address, server.token(), plaintext=True) as registry:
            for _ in range(10):
                uploads = (registry.upload_files("ri.models.main.model.none", tmp_path / "file") for _ in range(20))
                refusals += await asyncio.gather(*uploads, return_exceptions=True)
        return {type(refused) for refused in refusals}

    assert asyncio.run(run()) == {errors.ModelNotFound}


@both
def test_a_file_that_cannot_be_read_or_written_is_an_oserror(kind: Kind, server: Server, model: str) -> None:
    calls = kind(server.address, server.token())

    with pytest.raises(FileNotFoundError):
        calls.upload(model, Path("/missing/file"))
    with pytest.raises(OSError, match="Input/output error"):
        calls.upload(model, Path("/proc/self/mem"))
    with pytest.raises(FileExistsError, match="/dev/null"):
        calls.download(*VERSION, Path("/dev/null"))


class Sending(ModelServiceServicer):
    """Sends one part, and tells when the call is over."""

    def __init__(self) -> None:
        self.ended = futures.Future[None]()

    def DownloadModelFiles(self, request: Any, context: grpc.ServicerContext) -> Any:
        assert context.add_callback(lambda: self.ended.set_result(None))
        yield DownloadModelFilesResponse(chunk=b"part", sha256="0" * 64)
        if request.model_rid == "endless":
            self.ended.result()


@pytest.fixture
def sending() -> Sending:
    return Sending()


@pytest.fixture
def target(sending: Sending) -> Iterator[str]:
    with futures.ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        add_ModelServiceServicer_to_server(sending, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@both
def test_bytes_that_are_not_those_of_the_version_replace_nothing(kind: Kind, target: str, tmp_path: Path) -> None:
    (tmp_path / "fetched").write_text("what was there before")

    with pytest.raises(DigestMismatch) as mismatch:
        kind(target, "token").download(*VERSION, tmp_path / "fetched")

    assert (mismatch.value.actual, mismatch.value.expected) == (hashlib.sha256(b"part").hexdigest(), "0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["fetched"]
    assert (tmp_path / "fetched").read_text() == "what was there before"


@both
def test_a_download_that_cannot_be_written_ends_the_call(
    kind: Kind, sending: Sending, target: str, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        kind(target, "token").download("endless", VERSION[1], tmp_path / "missing" / "file")

    sending.ended.result()


def test_a_task_that_is_cancelled_leaves_no_file(target: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with aio.connect(target, "token", plaintext=True) as registry:
            download = asyncio.create_task(registry.download_files("endless", VERSION[1], tmp_path / "fetched"))
            while not list(tmp_path.iterdir()):
                await asyncio.sleep(0)
            download.cancel()
            with pytest.raises(asyncio.CancelledError):
                await download

    asyncio.run(run())
    assert not list(tmp_path.iterdir())
