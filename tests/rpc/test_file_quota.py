"""How many bytes of model files a caller and a folder may have, over a real channel and on every backend."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from modelregistry.v1.model_files_pb2 import DillModelFiles, ModelFiles
from modelregistry.v1.model_service_pb2 import UploadModelFilesRequest
from server.core.config import FileQuota
from server.storage.contract import Repository
from tests.builders import FOLDER, model_api, new_folder_rid
from tests.processes import until
from tests.rpc.harness import Failure, Registry, User, failure_of, serving
from tests.rpc.test_model_files import DATA, upload_failure

OF_PRINCIPAL, OF_FOLDER = 3 * len(DATA), 5 * len(DATA)


@pytest.fixture
def registry(repository: Repository) -> Iterator[Registry]:
    """A server that bounds the bytes of files."""
    with serving(repository, file_quota=FileQuota(OF_PRINCIPAL, OF_FOLDER)) as registry:
        yield registry


@pytest.fixture
def owners(registry: Registry, admin: User) -> list[User]:
    """Three callers who may create models in the folder."""
    owners = [registry.user(f"user{number}") for number in range(3)]
    for number in range(len(owners)):
        admin("GrantRole", resource_rid=FOLDER, principal=f"user:user{number}", role=ROLE_OWNER)
    return owners


def parts(model_rid: str, data: bytes) -> list[UploadModelFilesRequest]:
    """An upload in two parts."""
    half, digest = len(data) // 2, hashlib.sha256(data).hexdigest()
    return [
        UploadModelFilesRequest(model_rid=model_rid, chunk=data[:half]),
        UploadModelFilesRequest(chunk=data[half:], sha256=digest),
    ]


def told(failure: Failure) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """What a client learns."""
    return failure.code, failure.name, failure.parameters


def exceeded(resource: str, most: int) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """What a client learns that has no room."""
    return grpc.StatusCode.RESOURCE_EXHAUSTED, "QuotaExceeded", {"resource": resource, "maxBytes": str(most)}


def test_a_caller_has_so_many_bytes_also_where_equal_files_are_stored(registry: Registry, owners: list[User]) -> None:
    one, other = owners[:2]
    model = one.create_model("m")
    versions = [one.create_version_with_files(model, DATA) for _ in range(3)]

    assert told(upload_failure(one, *parts(model.rid, DATA))) == exceeded("user:user0", OF_PRINCIPAL)
    # And so it ends before its last part, which is not even valid.
    assert told(upload_failure(one, UploadModelFilesRequest(model_rid=model.rid, chunk=b"x"))) == exceeded(
        "user:user0", OF_PRINCIPAL
    )
    # What is there stays of use, promotions count nothing, and others have a bound of their own.
    assert one.download(versions[0]) == DATA
    assert one.promote(versions[0], one.create_model("n")).version_number == 1
    assert other.create_version_with_files(model, DATA).version_number == 4


def test_a_folder_has_so_many_bytes_whoever_brings_them(registry: Registry, admin: User, owners: list[User]) -> None:
    model = owners[0].create_model("m")
    for number in range(5):
        owners[number % 2].create_version_with_files(model, DATA)

    assert told(upload_failure(owners[2], *parts(model.rid, DATA))) == exceeded(FOLDER, OF_FOLDER)
    elsewhere = admin("CreateModel", name="m", parent_folder_rid=new_folder_rid())
    assert admin.create_version_with_files(elsewhere, DATA).version_number == 1


def test_files_that_creating_a_version_brings_count(registry: Registry, admin: User) -> None:
    model = admin.create_model("m")
    text = "x" * (OF_PRINCIPAL // 2)
    files = ModelFiles(dill=DillModelFiles(serialized_model_function=text))
    for number in (1, 2):
        assert admin.create_version(model, model_files=files).version_number == number
    failure = admin.failure("CreateModelVersion", model_rid=model.rid, model_api=model_api(), model_files=files)
    assert told(failure) == exceeded("user:admin", OF_PRINCIPAL)


def test_what_has_no_room_leaves_nothing(registry: Registry, admin: User) -> None:
    model = admin.create_model("m")
    assert upload_failure(admin, *parts(model.rid, b"x" * (OF_PRINCIPAL + 1))).name == "QuotaExceeded"
    until(lambda: not registry.files.names())
    data = b"x" * OF_PRINCIPAL
    assert admin.download(admin.create_version_with_files(model, data)) == data


def test_uploads_that_end_at_once_do_not_pass_the_bound_together(registry: Registry, owners: list[User]) -> None:
    """Each of them had room when it began."""
    model = owners[0].create_model("m")

    def upload(user: User) -> str:
        try:
            return user.create_version_with_files(model, DATA) and "created"
        except grpc.RpcError as error:
            return failure_of(error).name

    callers = [user for user in owners for _ in range(2)]
    with ThreadPoolExecutor(len(callers)) as threads:
        ends = list(threads.map(upload, callers))
    assert sorted(ends) == ["QuotaExceeded"] + 5 * ["created"]
    until(lambda: len(registry.files.names()) == 1)
