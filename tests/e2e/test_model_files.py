"""Model files of a gigabyte through a real server, and through one that is killed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR
from modelregistry.v1.model_files_pb2 import DillModelFiles, ModelFiles, UploadedModelFiles
from modelregistry.v1.model_service_pb2 import (
    CreateModelVersionRequest,
    DownloadModelFilesRequest,
    UploadModelFilesRequest,
)
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.rpc.threads import SHARE
from server.rpc.transfers import MAX_TRANSFERS
from tests.builders import model_api
from tests.object_store import BUCKET, StalledStore, object_store
from tests.processes import Server, run, until
from tests.rpc.harness import User

MIB = 2**20
# docs/model-files.md promises both, beside what a server takes that has no transfers.
MAX_BYTES_OF_A_TRANSFER = 30 * 10**6
MAX_BYTES_OF_TRANSFERS = 200 * 10**6
TRANSFER_SECONDS = 500


def peak_resident_bytes(server: Server) -> int:
    """The most memory that a worker of the server ever had, as the system counts it."""
    statuses = [Path(f"/proc/{worker.pid}/status").read_text().splitlines() for worker in server.workers()]
    return max(int(line.split()[1]) * 1024 for lines in statuses for line in lines if line.startswith("VmHWM"))


def parts(model_rid: str, mebibytes: int) -> Iterator[UploadModelFilesRequest]:
    """An upload, each MiB of it another."""
    yield UploadModelFilesRequest(model_rid=model_rid)
    digest = hashlib.sha256()
    for number in range(mebibytes):
        chunk = number.to_bytes(4) * (MIB // 4)
        digest.update(chunk)
        yield UploadModelFilesRequest(chunk=chunk)
    yield UploadModelFilesRequest(sha256=digest.hexdigest())


@pytest.mark.timeout(600)
def test_a_gigabyte_is_uploaded_promoted_and_downloaded_in_little_memory(tmp_path: Path) -> None:
    with Server(tmp_path / "cwd") as server, grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        source, target = admin.create_model("source"), admin.create_model("target")
        before = peak_resident_bytes(server)
        stub = ModelServiceStub(channel)
        for _ in range(2):  # the second time, it is stored already
            upload = stub.UploadModelFiles(parts(source.rid, 1024), metadata=admin.metadata, timeout=TRANSFER_SECONDS)
        files = ModelFiles(uploaded=UploadedModelFiles(upload_id=upload.upload_id))
        promoted = admin.promote(admin.create_version(source, model_files=files), target)

        digest, size, expected = hashlib.sha256(), 0, ""
        request = DownloadModelFilesRequest(model_rid=target.rid, model_version_rid=promoted.rid)
        for part in stub.DownloadModelFiles(request, metadata=admin.metadata, timeout=TRANSFER_SECONDS):
            digest.update(part.chunk)
            size += len(part.chunk)
            expected = expected or part.sha256

        assert (size, digest.hexdigest()) == (1024 * MIB, expected)
        assert peak_resident_bytes(server) - before < MAX_BYTES_OF_A_TRANSFER


def test_uploads_to_a_slow_object_store_take_little_memory_too(tmp_path: Path) -> None:
    """What the store has no room for yet stays with the clients, however many they are."""
    with (
        object_store() as objects,
        StalledStore(objects) as slow,
        Server(tmp_path / "cwd", "--files-url", f"s3://{BUCKET}/registry", **slow.environment) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        admin = server.user(channel)
        model = admin.create_model("model")
        upload = ModelServiceStub(channel).UploadModelFiles
        # No caller has more than a part of the places.
        names = [f"user-{stream * SHARE // MAX_TRANSFERS}" for stream in range(MAX_TRANSFERS)]
        for name in set(names):
            admin("GrantRole", resource_rid=model.rid, principal=f"user:{name}", role=ROLE_EDITOR)
        sent = [0] * MAX_TRANSFERS

        def counted(stream: int) -> Iterator[UploadModelFilesRequest]:
            for part in parts(model.rid, 40):
                sent[stream] += 1
                yield part

        before = peak_resident_bytes(server)
        calls = [
            upload.future(counted(stream), metadata=server.user(channel, name).metadata, timeout=TRANSFER_SECONDS)
            for stream, name in enumerate(names)
        ]
        until_it_stands_still(sent)
        assert not any(call.done() for call in calls)
        slow.go_on()
        assert all(call.result().upload_id for call in calls)

        assert peak_resident_bytes(server) - before < MAX_BYTES_OF_TRANSFERS


def until_it_stands_still(sent: list[int]) -> None:
    """Return when each stream has sent something, and none has for a while."""
    seen, since = list[int](), time.monotonic()

    def is_still() -> bool:
        nonlocal seen, since
        if seen != sent:
            seen, since = sent.copy(), time.monotonic()
        return all(seen) and time.monotonic() - since > 2

    until(is_still)


def test_a_store_that_hangs_holds_neither_other_calls_nor_the_end_of_the_server(tmp_path: Path) -> None:
    with (
        object_store() as objects,
        Server(tmp_path / "cwd", "--files-url", f"s3://{BUCKET}/registry", **objects.environment) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        admin = server.user(channel)
        model = admin.create_model("model")
        admin.create_version_with_files(model, b"bytes")
        create = ModelServiceStub(channel).CreateModelVersion
        text = ModelFiles(dill=DillModelFiles(serialized_model_function="text"))
        request = CreateModelVersionRequest(model_rid=model.rid, model_api=model_api(), model_files=text)
        objects.freeze()
        try:
            # More than there are threads for any kind of call.
            waiting = [create.future(request, metadata=admin.metadata, timeout=TRANSFER_SECONDS) for _ in range(80)]

            assert [admin("GetModel", model_rid=model.rid) for _ in range(20)] == [model] * 20

            assert not any(call.done() for call in waiting)
            server.terminate()
            assert server.process.wait(20) == 0
        finally:
            objects.thaw()


def test_files_are_kept_in_an_object_store_and_shared_by_servers(tmp_path: Path, migrated_url: str) -> None:
    data = bytes(range(256)) * 40_000
    with object_store() as objects:
        options = ("--database-url", migrated_url, "--files-url", f"s3://{BUCKET}/registry")
        with Server(tmp_path / "one", *options, **objects.environment) as one:
            with grpc.insecure_channel(one.address) as channel:
                admin = one.user(channel)
                source, target = admin.create_model("source"), admin.create_model("target")
                promoted = admin.promote(admin.create_version_with_files(source, data), target)
            with (
                Server(tmp_path / "two", *options, **objects.environment) as two,
                grpc.insecure_channel(two.address) as channel,
            ):
                assert two.user(channel).download(promoted) == data
            assert not (one.data_dir / "files").exists()
        collected = run("gc", *options, **objects.environment)
        assert (
            collected.stderr
            == "removed 0 files of 0 bytes, 0 leftovers, 0 expired uploads, 0 comparisons, 0 events and 0 deliveries\n"
        )


def test_an_upload_that_is_under_way_when_the_server_is_killed_leaves_garbage_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cwd"
    with Server(folder) as server, grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        model = admin.create_model("model")
        kept = admin.create_version_with_files(model, b"acknowledged")
        registry = next((server.data_dir / "files").iterdir())
        killed = _kill_amid_an_upload(server, channel, admin, model.rid, registry)
        assert killed.code() == grpc.StatusCode.UNAVAILABLE
    assert len(list(registry.iterdir())) == 2

    with Server(folder) as server, grpc.insecure_channel(server.address) as channel:
        admin = server.user(channel)
        # Until its upload has expired, it could still be somebody's.
        assert run("gc", "--data-dir", server.data_dir).stderr.startswith("removed 0 files of 0 bytes, 0 leftovers")
        assert admin.download(kept) == b"acknowledged"
        assert admin.download(admin.create_version_with_files(model, b"again")) == b"again"


def _kill_amid_an_upload(
    server: Server, channel: grpc.Channel, admin: User, model_rid: str, registry: Path
) -> grpc.Call:
    """Upload without end, and kill the server when it has written a part; how the call ended."""

    def endless() -> Iterator[UploadModelFilesRequest]:
        yield UploadModelFilesRequest(model_rid=model_rid)
        while True:
            yield UploadModelFilesRequest(chunk=bytes(MIB))
            if sum(path.stat().st_size for path in registry.iterdir()) > 10 * MIB:
                server.kill()

    with ThreadPoolExecutor(1) as thread:
        stub = ModelServiceStub(channel)
        sent = thread.submit(stub.UploadModelFiles.future, endless(), metadata=admin.metadata, timeout=TRANSFER_SECONDS)
        call: grpc.Call = sent.result()
        call.exception()  # type: ignore[attr-defined] # waits
        return call
