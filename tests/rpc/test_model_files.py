"""Model files over a real channel: uploaded, named by a version, promoted with it, and downloaded."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.model_files_pb2 import DillModelFiles, ModelFiles, UploadedModelFiles
from modelregistry.v1.model_pb2 import Model
from modelregistry.v1.model_service_pb2 import UploadModelFilesRequest
from server.storage.blobs import open_file_store
from server.storage.sql.repository import SqlRepository
from tests.builders import model_api
from tests.processes import until
from tests.rpc.harness import DEADLINE_SECONDS, SOME_MODEL, SOME_VERSION, Failure, Registry, User, failure_of, serving
from tests.rpc.test_no_oracle import ABSENT_MODEL, normalised
from tests.storage.inspection import row_counts

pytestmark = pytest.mark.database("shared")

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


def test_files_for_which_there_is_no_room_leave_neither_upload_nor_version(
    repository: SqlRepository, migrated_url: str, folder: str, tmp_path: Path
) -> None:
    store = open_file_store(None, tmp_path, "one", keep_free=2**62)
    text = ModelFiles(dill=DillModelFiles(serialized_model_function="text"))
    with serving(repository, files=store) as registry:
        admin = dataclasses.replace(registry.user("admin"), folder=folder)
        model, before = admin.create_model("model"), row_counts(migrated_url)
        failed = [
            upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid, chunk=DATA, sha256=sha256(DATA))),
            admin.failure("CreateModelVersion", model_rid=model.rid, model_api=model_api(), model_files=text),
        ]
        assert row_counts(migrated_url) == before
    assert store.names() == []
    assert {(each.code, each.name, each.retry_seconds) for each in failed} == {
        (grpc.StatusCode.UNAVAILABLE, "StorageUnavailable", 1)
    }
    assert all("There is no room for model files." in each.message for each in failed)


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


@pytest.mark.database("own")
def test_bytes_that_did_not_arrive_as_they_were_sent_are_refused(admin: User, model: Model, registry: Registry) -> None:
    failure = upload_failure(admin, UploadModelFilesRequest(model_rid=model.rid, chunk=DATA, sha256=sha256(b"other")))

    assert (failure.code, failure.name) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidArgument")
    assert failure.violations == [
        ("sha256", f"is not that of the {len(DATA)} bytes that arrived, which is {sha256(DATA)}")
    ]
    assert registry.files.names() == []


@pytest.mark.database("own")
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


@pytest.mark.database("own")
def test_a_part_that_does_not_parse_is_refused(registry: Registry, admin: User, model: Model) -> None:
    call = registry.channel.stream_unary(UPLOAD)
    good = UploadModelFilesRequest(model_rid=model.rid, chunk=DATA).SerializeToString()

    with pytest.raises(grpc.RpcError) as caught:
        call(iter([good, b"\xff"]), metadata=admin.metadata, timeout=DEADLINE_SECONDS)

    assert failure_of(caught.value).name == "InvalidArgument"
    assert registry.files.names() == []


@pytest.mark.database("own")
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


@pytest.mark.database("own")
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


@pytest.mark.database("own")
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
