"""Model files over a real channel: uploaded, named by a version, promoted with it, and downloaded."""

from __future__ import annotations

import hashlib
import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.model_files_pb2 import DillModelFiles, ModelFiles, UploadedModelFiles
from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.model_service_pb2 import DownloadModelFilesRequest, UploadModelFilesRequest
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.rpc import transfers
from tests.builders import model_api
from tests.rpc.harness import DEADLINE_SECONDS, SOME_MODEL, SOME_VERSION, Failure, Registry, User, failure_of
from tests.rpc.test_no_oracle import ABSENT_MODEL, normalised

DATA = b"\x80\x04\x95 no pickle is loaded here \x00\xff" * 9_999


@pytest.fixture
def model(admin: User) -> Model:
    return admin.create_model("model")


UPLOAD = "/modelregistry.v1.ModelService/UploadModelFiles"


def uploaded(upload_id: str) -> dict[str, ModelFiles]:
    return {"model_files": ModelFiles(uploaded=UploadedModelFiles(upload_id=upload_id))}


def creation(model: Model, upload_id: str) -> dict[str, Any]:
    return {"model_rid": model.rid, "model_api": model_api(), **uploaded(upload_id)}


def upload_failure(user: User, *parts: UploadModelFilesRequest) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        user.send_parts(parts)
    return failure_of(caught.value)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_uploaded_files_come_back_from_the_version_that_names_them(admin: User, model: Model) -> None:
    version = admin.create_version_with_files(model, DATA)

    assert admin.download(version) == DATA


def test_a_promoted_version_has_the_files_under_a_rid_of_its_own(admin: User, model: Model) -> None:
    first = admin.create_version_with_files(model, DATA)

    second = admin.promote(first, admin.create_model("staging"))
    third = admin.promote(second, admin.create_model("production"))

    assert admin.download(second) == admin.download(third) == DATA


def test_a_function_that_a_request_brings_itself_comes_back_as_its_text(admin: User, model: Model) -> None:
    text = "gASVCgAAAAAAAACMBmFuc3dlcpQu\r\n\tü𝛼"

    version = admin.create_version(model, model_files=ModelFiles(dill=DillModelFiles(serialized_model_function=text)))

    assert admin.download(version) == text.encode()
    assert admin("GetModelVersion", model_rid=model.rid, model_version_rid=version.rid) == version


def test_files_without_a_byte_are_files(admin: User, model: Model) -> None:
    assert admin.download(admin.create_version_with_files(model, b"")) == b""


def test_one_part_can_be_a_whole_upload(admin: User, model: Model) -> None:
    part = UploadModelFilesRequest(model_rid=model.rid, chunk=DATA, sha256=sha256(DATA).upper())

    version = admin.create_version(model, **uploaded(admin.send_parts([part]).upload_id))

    assert admin.download(version) == DATA


def test_a_version_without_files_has_none_to_download(admin: User, model: Model) -> None:
    version = admin.create_version(model)

    failure = admin.failure("DownloadModelFiles", model_rid=model.rid, model_version_rid=version.rid)

    assert (failure.code, failure.name) == (grpc.StatusCode.NOT_FOUND, "ModelFilesNotFound")
    assert failure.parameters == {"modelRid": model.rid, "modelVersionRid": version.rid}


def test_an_upload_can_be_named_again_and_repeated(admin: User, model: Model) -> None:
    """Whoever does not know whether a call arrived makes it again."""
    upload_id = admin.upload(model, DATA)
    versions = [admin.create_version(model, **uploaded(upload_id)) for _ in range(2)]

    assert admin.upload(model, DATA) != upload_id
    assert [admin.download(version) for version in versions] == [DATA, DATA]


def test_bytes_that_did_not_arrive_as_they_were_sent_are_refused(admin: User, model: Model, registry: Registry) -> None:
    failure = upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid, chunk=DATA, sha256=sha256(b"other")))

    assert (failure.code, failure.name) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidArgument")
    assert failure.violations == [
        ("sha256", f"is not that of the {len(DATA)} bytes that arrived, which is {sha256(DATA)}")
    ]
    assert registry.files.names() == []


@pytest.mark.parametrize(
    ("parts", "violation"),
    [
        ([], ("model_rid", "is required in the first part")),
        ([{"chunk": b"x"}], ("model_rid", "is required in the first part")),
        ([{"model_rid": "M"}], ("sha256", "is required in the last part")),
        ([{"model_rid": "M", "sha256": sha256(b"x")}, {"chunk": b"x"}], ("sha256", "is required in the last part")),
        ([{"model_rid": "M"}, {"model_rid": SOME_MODEL}], ("model_rid", "must be the same in every part")),
        (
            [{"model_rid": "M", "sha256": sha256(b"x")}, {"sha256": sha256(b"")}],
            ("sha256", "must be the same in every part"),
        ),
        ([{"model_rid": "M", "sha256": "abc"}], ("sha256", "must be 64 hexadecimal digits, not 'abc'")),
    ],
)
def test_a_stream_that_contradicts_itself_is_refused(
    admin: User, model: Model, registry: Registry, parts: list[dict[str, Any]], violation: tuple[str, str]
) -> None:
    sent = [{**part, **({"model_rid": model.rid} if part.get("model_rid") == "M" else {})} for part in parts]

    failure = upload_failure(admin, *(UploadModelFilesRequest(**part) for part in sent))

    assert (failure.name, failure.violations) == ("InvalidArgument", [violation])
    assert registry.files.names() == []


def test_a_part_that_does_not_parse_is_refused(registry: Registry, admin: User, model: Model) -> None:
    call = registry.channel.stream_unary(UPLOAD)
    good = UploadModelFilesRequest(model_rid=model.rid, chunk=DATA).SerializeToString()

    with pytest.raises(grpc.RpcError) as caught:
        call(iter([good, b"\xff"]), metadata=admin.metadata, timeout=DEADLINE_SECONDS)

    assert failure_of(caught.value).name == "InvalidArgument"
    assert registry.files.names() == []


def test_an_upload_takes_the_role_that_creating_versions_takes(
    admin: User, jane: User, model: Model, registry: Registry
) -> None:
    part = UploadModelFilesRequest(model_rid=model.rid, chunk=DATA, sha256=sha256(DATA))
    assert upload_failure(jane, part).name == "ModelNotFound"

    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_PROMOTER)
    refused = upload_failure(jane, part)
    assert (refused.code, refused.name) == (grpc.StatusCode.PERMISSION_DENIED, "CreateModelVersionPermissionDenied")
    assert registry.files.names() == []

    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_EDITOR)
    assert jane.download(jane.create_version_with_files(model, DATA)) == DATA


@pytest.mark.parametrize("members", ["dill", "uploaded"])
def test_who_may_not_create_versions_is_told_so_before_any_word_about_files(
    admin: User, jane: User, model: Model, registry: Registry, members: str
) -> None:
    files = {
        "dill": ModelFiles(dill=DillModelFiles(serialized_model_function="text")),
        "uploaded": ModelFiles(uploaded=UploadedModelFiles(upload_id="none")),
    }[members]
    request = {"model_rid": model.rid, "model_api": model_api(), "model_files": files}
    assert jane.failure("CreateModelVersion", **request).name == "ModelNotFound"

    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
    assert jane.failure("CreateModelVersion", **request).name == "CreateModelVersionPermissionDenied"
    assert registry.files.names() == []


def test_an_upload_is_of_no_use_to_others_for_other_models_or_by_its_digest(
    admin: User, jane: User, model: Model
) -> None:
    other = admin.create_model("other")
    for each in (model, other):
        admin("GrantRole", resource_rid=each.rid, principal="user:jane", role=ROLE_EDITOR)
    upload_id = admin.upload(model, DATA)

    answers = {
        normalised(user, "CreateModelVersion", {each.rid: ABSENT_MODEL, named[:8]: "u" * 8}, **creation(each, named))
        for user, each, named in (
            (jane, model, upload_id),
            (admin, other, upload_id),
            (admin, model, "a" * 43),
        )
    }
    by_digest = admin.failure("CreateModelVersion", **creation(model, sha256(DATA)))

    assert len(answers) == 1
    assert (by_digest.code, by_digest.name) == (grpc.StatusCode.NOT_FOUND, "UploadNotFound")
    assert by_digest.parameters == {"modelRid": model.rid, "uploadId": f"{sha256(DATA)[:8]}…"}
    assert admin("ListModelVersions", model_rid=model.rid).model_versions == []


def test_equal_files_are_stored_once_and_nothing_tells(
    admin: User, jane: User, model: Model, registry: Registry
) -> None:
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_EDITOR)
    versions = [user.create_version_with_files(model, DATA) for user in (admin, jane, admin)]
    text = ModelFiles(dill=DillModelFiles(serialized_model_function="text"))
    versions += [jane.create_version(model, model_files=text), admin.create_version_with_files(model, b"text")]

    until(lambda: len(registry.files.names()) == 2)  # nobody waits for the removal of the others
    assert [admin.download(version) for version in versions] == [DATA] * 3 + [b"text"] * 2


def test_files_of_a_model_that_a_caller_may_not_see_are_those_of_no_version(
    admin: User, jane: User, model: Model
) -> None:
    version = admin.create_version_with_files(model, DATA)
    wanted = {"model_rid": model.rid, "model_version_rid": version.rid}
    absent = {"model_rid": SOME_MODEL, "model_version_rid": SOME_VERSION}

    invisible = normalised(jane, "DownloadModelFiles", {model.rid: SOME_MODEL, version.rid: SOME_VERSION}, **wanted)

    assert invisible == normalised(jane, "DownloadModelFiles", {}, **absent)
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
    assert jane.download(version) == DATA


def test_a_promoted_version_is_downloaded_from_its_own_model_alone(admin: User, jane: User, model: Model) -> None:
    production = admin.create_model("production")
    promoted = admin.promote(admin.create_version_with_files(model, DATA), production)
    admin("GrantRole", resource_rid=production.rid, principal="user:jane", role=ROLE_VIEWER)

    assert jane.download(promoted) == DATA
    mixed = jane.failure("DownloadModelFiles", model_rid=model.rid, model_version_rid=promoted.rid)
    assert mixed.name == "ModelVersionNotFound"


class Stalled:
    """An upload that stays open: its first part is on the way, and nothing follows until it is told."""

    def __init__(self, user: User, model: Model) -> None:
        self._parts: queue.SimpleQueue[UploadModelFilesRequest | None] = queue.SimpleQueue()
        self._parts.put(UploadModelFilesRequest(model_rid=model.rid, chunk=DATA))
        call = user.channel.stream_unary(UPLOAD, request_serializer=UploadModelFilesRequest.SerializeToString)
        self.call: Any = call.future(iter(self._parts.get, None), metadata=user.metadata, timeout=DEADLINE_SECONDS)

    def end(self) -> None:
        self._parts.put(None)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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

    def codes() -> list[str]:
        return [record.fields["code"] for record in caplog.records if hasattr(record, "fields")]

    with caplog.at_level("INFO", "modelregistry.calls"):
        caplog.clear()
        upload = Stalled(admin, model)
        begun(registry, 2)
        upload.call.cancel()
        until(lambda: len(codes()) == 1)
        download = ModelServiceStub(registry.channel).DownloadModelFiles(request, metadata=admin.metadata)
        next(download)
        download.cancel()
        until(lambda: len(codes()) == 2)
        admin.download(admin.create_version_with_files(model, DATA))

    assert codes() == ["CANCELLED", "CANCELLED", "OK", "OK", "OK"]


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
        for part in ("first", "second"):
            assert not client.is_too_slow()
            now += transfers.FIRST_SECONDS + (part == "second") * 1.0
            assert client.is_too_slow() == (part == "never")
            yield part

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
    two_transfers: None, monkeypatch: pytest.MonkeyPatch, registry: Registry, admin: User, model: Model
) -> None:
    monkeypatch.setattr(transfers, "IDLE_SECONDS", 0.5)
    version = admin.create_version_with_files(model, b"x" * 64 * 2**20)
    request = DownloadModelFilesRequest(model_rid=model.rid, model_version_rid=version.rid)
    download = ModelServiceStub(registry.channel).DownloadModelFiles

    unread = [download(request, metadata=admin.metadata, timeout=DEADLINE_SECONDS) for _ in range(2)]
    for call in unread:
        next(call)  # it is on its way
    assert upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid)).name == "Overloaded"

    until(lambda: upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid)).name == "InvalidArgument")
    for call in unread:
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() == grpc.StatusCode.CANCELLED


def test_a_text_that_no_message_can_carry_is_too_large(registry: Registry, admin: User, model: Model) -> None:
    text = ModelFiles(dill=DillModelFiles(serialized_model_function="x" * 4 * 2**20))

    failure = admin.failure("CreateModelVersion", model_rid=model.rid, model_api=model_api(), model_files=text)

    assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("files", "violation"),
    [
        (ModelFiles(), ("model_files.type", "is required")),
        (ModelFiles(dill=DillModelFiles()), ("model_files.dill.serialized_model_function", "is required")),
        (ModelFiles(uploaded=UploadedModelFiles()), ("model_files.uploaded.upload_id", "is required")),
    ],
)
def test_model_files_that_are_none_are_refused(
    admin: User, model: Model, files: ModelFiles, violation: tuple[str, str]
) -> None:
    failure = admin.failure("CreateModelVersion", model_rid=model.rid, model_api=model_api(), model_files=files)

    assert (failure.name, failure.violations) == ("InvalidArgument", [violation])
