"""How many may transfer model files at a time, how long a client may take, and what a broken store means to it."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.model_service_pb2 import DownloadModelFilesRequest, UploadModelFilesRequest
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.rpc import transfers
from tests.processes import until
from tests.rpc.harness import DEADLINE_SECONDS, Registry, User, failure_of
from tests.rpc.test_model_files import DATA, UPLOAD, model, sha256, upload_failure

__all__ = ["model"]  # a fixture


def codes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """How the calls ended, as the log says."""
    return [record.fields["code"] for record in caplog.records if hasattr(record, "fields")]


class Stalled:
    """An upload that stays open: its first part is on the way, and nothing follows until it is told."""

    def __init__(self, user: User, model: Model) -> None:
        self._parts: queue.SimpleQueue[UploadModelFilesRequest | None] = queue.SimpleQueue()
        self._parts.put(UploadModelFilesRequest(model_rid=model.rid, chunk=DATA))
        call = user.channel.stream_unary(UPLOAD, request_serializer=UploadModelFilesRequest.SerializeToString)
        self.call: Any = call.future(iter(self._parts.get, None), metadata=user.metadata, timeout=DEADLINE_SECONDS)

    def end(self) -> None:
        self._parts.put(None)


def begun(registry: Registry, count: int) -> None:
    """Wait until that many uploads have begun to write."""
    until(lambda: len(registry.files.names()) >= count)


@pytest.fixture
def two_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that are made from now on take two transfers at a time."""
    monkeypatch.setattr(transfers, "MAX_TRANSFERS", 2)


def test_transfers_beyond_the_bound_are_told_at_once_and_other_calls_go_on(
    two_transfers: None, registry: Registry, admin: User, model: Model
) -> None:
    open_ones = [Stalled(admin, model) for _ in range(2)]
    begun(registry, 2)

    refused = upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid, sha256=sha256(b"")))
    others = admin.create_version(model)
    for each in open_ones:
        each.call.cancel()
    for each in open_ones:
        assert each.call.code() == grpc.StatusCode.CANCELLED

    assert (refused.code, refused.name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
    assert refused.retry_seconds == 1
    assert others.version_number == 1


def test_an_upload_that_was_cut_off_leaves_nothing_and_can_be_made_again(
    registry: Registry, admin: User, model: Model
) -> None:
    cut_off = Stalled(admin, model)
    begun(registry, 1)

    cut_off.call.cancel()

    version = admin.create_version_with_files(model, DATA)
    until(lambda: len(registry.files.names()) == 1)
    assert admin.download(version) == DATA


def test_only_who_may_upload_takes_a_place(
    two_transfers: None, registry: Registry, admin: User, jane: User, model: Model
) -> None:
    strangers = [Stalled(jane, model) for _ in range(2)]
    for each in strangers:
        assert each.call.code() == grpc.StatusCode.NOT_FOUND
    waiting = [registry.channel.stream_unary(UPLOAD) for _ in range(2)]
    unsaid: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    calls = [call.future(iter(unsaid.get, None), metadata=jane.metadata, timeout=DEADLINE_SECONDS) for call in waiting]

    assert admin.download(admin.create_version_with_files(model, DATA)) == DATA

    for each in calls:
        each.cancel()
        unsaid.put(None)


def test_the_log_says_which_transfers_were_cut_off(
    registry: Registry, admin: User, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    version = admin.create_version_with_files(model, b"x" * 64 * 2**20)
    request = DownloadModelFilesRequest(model_rid=model.rid, model_version_rid=version.rid)

    with caplog.at_level("INFO", "modelregistry.calls"):
        caplog.clear()
        upload = Stalled(admin, model)
        begun(registry, 2)
        upload.call.cancel()
        until(lambda: len(codes(caplog)) == 1)
        download = ModelServiceStub(registry.channel).DownloadModelFiles(request, metadata=admin.metadata)
        next(download)
        download.cancel()
        until(lambda: len(codes(caplog)) == 2)
        admin.download(admin.create_version_with_files(model, DATA))

    assert codes(caplog) == ["CANCELLED", "CANCELLED", "OK", "OK", "OK"]


def test_an_object_that_was_lost_is_replaced_by_the_next_upload_of_its_bytes(
    registry: Registry, admin: User, model: Model
) -> None:
    first = admin.create_version_with_files(model, DATA)
    for name in registry.files.names():
        registry.files.remove(name)
    lost = admin.failure("DownloadModelFiles", model_rid=model.rid, model_version_rid=first.rid)
    assert (lost.code, lost.name) == (grpc.StatusCode.UNAVAILABLE, "StorageUnavailable")
    assert lost.retry_seconds is None

    second = admin.create_version_with_files(model, DATA)

    assert admin.download(first) == admin.download(second) == DATA


@pytest.mark.parametrize("changed", [DATA[:-1], DATA + b"x", b"y" + DATA[1:]], ids=["shorter", "longer", "other"])
def test_an_object_that_was_changed_is_not_passed_off_as_what_was_stored(
    registry: Registry, admin: User, model: Model, changed: bytes
) -> None:
    version = admin.create_version_with_files(model, DATA)
    (name,) = registry.files.names()
    with registry.files.write(name) as target:
        target.write(changed)

    with pytest.raises(grpc.RpcError) as caught:
        admin.download(version)

    failure = failure_of(caught.value)
    assert (failure.name, failure.retry_seconds) == ("StorageUnavailable", None)


def test_what_the_server_takes_itself_is_not_the_clients_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(transfers.time, "monotonic", lambda: now)
    client = transfers.Client()

    def parts() -> Iterator[str]:
        nonlocal now
        now += transfers.FIRST_SECONDS
        assert not client.is_too_slow()
        yield "first"
        now += transfers.IDLE_SECONDS
        assert not client.is_too_slow()
        yield "second"
        now += transfers.IDLE_SECONDS + 1
        assert client.is_too_slow()

    for _ in client.sending(parts()):
        now += 10 * transfers.IDLE_SECONDS
        assert not client.is_too_slow()
    stream = client.taking(iter(["first", "second"]))
    next(stream)
    now += transfers.IDLE_SECONDS
    assert not client.is_too_slow()
    now += 1
    assert client.is_too_slow()


def test_a_client_that_stands_still_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, admin: User, model: Model
) -> None:
    monkeypatch.setattr(transfers, "IDLE_SECONDS", 0.2)
    stalled = Stalled(admin, model)

    assert stalled.call.code() == grpc.StatusCode.CANCELLED
    assert admin.download(admin.create_version_with_files(model, DATA)) == DATA


def test_clients_that_do_not_read_are_cut_off_and_give_their_place_to_others(
    two_transfers: None,
    monkeypatch: pytest.MonkeyPatch,
    registry: Registry,
    admin: User,
    model: Model,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(transfers, "IDLE_SECONDS", 0.5)
    caplog.set_level("INFO", "modelregistry.calls")
    version = admin.create_version_with_files(model, b"x" * 64 * 2**20)
    request = DownloadModelFilesRequest(model_rid=model.rid, model_version_rid=version.rid)
    download = ModelServiceStub(registry.channel).DownloadModelFiles

    unread = [download(request, metadata=admin.metadata, timeout=DEADLINE_SECONDS) for _ in range(2)]
    for call in unread:
        next(call)  # it is on its way
    assert upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid)).name == "Overloaded"

    until(lambda: codes(caplog).count("CANCELLED") == 2)
    assert upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid)).name == "InvalidArgument"
    for call in unread:
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() == grpc.StatusCode.CANCELLED
