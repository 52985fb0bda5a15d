"""How many may transfer model files at a time, how long a client may take, and what a broken store means to it."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Iterator
from typing import Any, TypeVar

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR
from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.model_service_pb2 import (
    DownloadModelFilesRequest,
    DownloadModelFilesResponse,
    UploadModelFilesRequest,
)
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.core.errors import RequestTimeout
from server.rpc import transfers
from server.rpc.admission.receiving import PLACES_OF_EACH, WAITING
from server.rpc.threads import SHARE
from tests.processes import until
from tests.rpc.harness import DEADLINE_SECONDS, Registry, User, failure_of
from tests.rpc.test_model_files import DATA, UPLOAD, model, sha256, upload_failure

__all__ = ["model"]  # a fixture

T = TypeVar("T")

SHARE_OF_EACH = transfers.MAX_TRANSFERS // SHARE


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


def begins(registry: Registry, user: User, model: Model, count: int) -> list[Stalled]:
    """Let a user begin so many uploads, which then have their places."""
    before = len(registry.files.names())
    stalled = [Stalled(user, model) for _ in range(count)]
    begun(registry, before + count)
    return stalled


def test_transfers_of_a_caller_beyond_its_share_are_told_at_once_and_other_callers_go_on(
    registry: Registry, admin: User, model: Model
) -> None:
    greedy = registry.user("greedy")
    admin("GrantRole", resource_rid=model.rid, principal="user:greedy", role=ROLE_EDITOR)
    open_ones = begins(registry, greedy, model, SHARE_OF_EACH)

    refused = upload_failure(greedy, UploadModelFilesRequest(model_rid=model.rid, sha256=sha256(b"")))
    version = admin.create_version_with_files(model, DATA)
    downloaded = admin.download(version)
    others = greedy.create_version(model)
    for each in open_ones:
        each.call.cancel()

    assert (refused.code, refused.name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
    assert refused.retry_seconds == 1
    assert downloaded == DATA
    assert others.version_number == 2


def test_transfers_beyond_what_all_callers_may_have_are_told_at_once(
    registry: Registry, admin: User, model: Model
) -> None:
    callers = [registry.user(f"user{number}") for number in range(transfers.MAX_TRANSFERS // SHARE_OF_EACH)]
    open_ones = []
    for number, caller in enumerate(callers):
        admin("GrantRole", resource_rid=model.rid, principal=f"user:user{number}", role=ROLE_EDITOR)
        open_ones += begins(registry, caller, model, SHARE_OF_EACH)
    refused = upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid, sha256=sha256(b"")))
    assert refused.name == "Overloaded"
    for each in open_ones:
        each.call.cancel()


def test_an_upload_that_was_cut_off_leaves_nothing_and_can_be_made_again(
    registry: Registry, admin: User, model: Model
) -> None:
    cut_off = Stalled(admin, model)
    begun(registry, 1)

    cut_off.call.cancel()

    version = admin.create_version_with_files(model, DATA)
    until(lambda: len(registry.files.names()) == 1)
    assert admin.download(version) == DATA


def test_who_may_not_upload_keeps_no_place_whatever_is_sent(
    registry: Registry, admin: User, jane: User, model: Model
) -> None:
    """Seventy streams with a first part are refused at once; and others with none keep no other caller out."""
    strangers = [Stalled(jane, model) for _ in range(70)]
    for each in strangers:
        assert each.call.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED}
    silent = queue.SimpleQueue[bytes | None]()
    upload = registry.channel.stream_unary(UPLOAD)
    calls = [upload.future(iter(silent.get, None), metadata=jane.metadata, timeout=DEADLINE_SECONDS) for _ in range(70)]
    # As many have a place for their first part, or wait for one, as a caller may; the others are refused.
    until(lambda: sum(call.done() for call in calls) >= len(calls) - PLACES_OF_EACH - WAITING)

    assert admin.download(admin.create_version_with_files(model, DATA)) == DATA

    for each in calls:
        each.cancel()
        silent.put(None)


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


class Clock:
    """The time that transfers go by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(transfers.time, "monotonic", lambda: self.now)

    def parts(self, seconds: float, data: bytes) -> Iterator[UploadModelFilesRequest]:
        """Parts that take so long to come."""
        while True:
            self.now += seconds
            yield UploadModelFilesRequest(chunk=data)

    def taken(self, parts: Iterator[T], seconds: float) -> Iterator[T]:
        """Ten of these parts, each of which takes so long to be taken."""
        for part in itertools.islice(parts, 10):
            yield part
            self.now += seconds


def test_what_the_server_takes_itself_is_not_the_clients_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, client = Clock(monkeypatch), transfers.Client()

    def parts() -> Iterator[UploadModelFilesRequest]:
        for seconds in (transfers.FIRST_SECONDS, transfers.IDLE_SECONDS):
            clock.now += seconds
            assert not client.is_too_slow()
            yield UploadModelFilesRequest(chunk=b"x" * 2**20)
        clock.now += transfers.IDLE_SECONDS + 1
        assert client.is_too_slow()

    for _ in client.sending(parts()):
        clock.now += 10 * transfers.IDLE_SECONDS
        assert not client.is_too_slow()
    stream = client.taking(iter([DownloadModelFilesResponse(chunk=DATA)] * 2))
    next(stream)
    clock.now += transfers.IDLE_SECONDS
    assert not client.is_too_slow()
    clock.now += 1
    assert client.is_too_slow()


@pytest.mark.parametrize("bits_per_second", [128_000, 1_000_000])
def test_a_slow_line_is_no_fault(monkeypatch: pytest.MonkeyPatch, bits_per_second: int) -> None:
    clock, part = Clock(monkeypatch), b"x" * 2**20
    client, seconds = transfers.Client(), 8 * len(part) / bits_per_second
    sent = client.sending(clock.parts(seconds, part))
    assert len(list(itertools.islice(sent, 200))) == 200
    taken = client.taking(itertools.repeat(DownloadModelFilesResponse(chunk=part)))
    assert len(list(clock.taken(taken, seconds))) == 10


def test_a_client_that_trickles_is_told_how_fast_it_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slow = Clock(monkeypatch), "at less than 1024 bytes a second"
    sent = transfers.Client().sending(clock.parts(20, b"x"))
    with pytest.raises(RequestTimeout, match=f"chunk: comes {slow}"):
        list(itertools.islice(sent, 10))
    taken = transfers.Client().taking(itertools.repeat(DownloadModelFilesResponse(chunk=b"x")))
    with pytest.raises(RequestTimeout, match=f"chunk: is taken {slow}"):
        list(clock.taken(taken, 20))


def test_an_upload_that_trickles_ends_with_its_reason_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, admin: User, model: Model
) -> None:
    # Such a client has used up its time with the second part.
    monkeypatch.setattr(transfers, "MIN_BYTES_PER_SECOND", 2**60)
    monkeypatch.setattr(transfers, "IDLE_SECONDS", 1e-9)
    parts = (UploadModelFilesRequest(model_rid=model.rid, chunk=b"x") for _ in range(1000))
    failure = upload_failure(admin, *parts)
    assert (failure.code, failure.name) == (grpc.StatusCode.DEADLINE_EXCEEDED, "RequestTimeout")
    assert failure.violations == [("chunk", f"comes at less than {2**60} bytes a second")]
    until(lambda: not registry.files.names())


def test_a_client_that_stands_still_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, admin: User, model: Model
) -> None:
    monkeypatch.setattr(transfers, "IDLE_SECONDS", 0.2)
    stalled = Stalled(admin, model)

    assert stalled.call.code() == grpc.StatusCode.CANCELLED
    assert admin.download(admin.create_version_with_files(model, DATA)) == DATA


def test_clients_that_do_not_read_are_cut_off_and_give_their_place_to_others(
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

    unread = [download(request, metadata=admin.metadata, timeout=DEADLINE_SECONDS) for _ in range(SHARE_OF_EACH)]
    for call in unread:
        next(call)  # it is on its way
    assert upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid)).name == "Overloaded"

    until(lambda: codes(caplog).count("CANCELLED") == 2)
    assert upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid)).name == "InvalidArgument"
    for call in unread:
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() == grpc.StatusCode.CANCELLED
