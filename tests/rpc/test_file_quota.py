"""How many bytes of model files a caller and a folder may have, over a real channel and on every backend."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER
from modelregistry.v1.model_files_pb2 import DillModelFiles, ModelFiles
from modelregistry.v1.model_service_pb2 import UploadModelFilesRequest
from server.core.config import FileQuota
from server.rules.model_files import UPLOADING_LIFETIME
from server.storage.contract import Repository
from server.storage.sql.files import EXPIRED_AT_ONCE
from server.storage.sql.repository import SqlRepository
from tests.builders import FOLDER, model_api, new_folder_rid
from tests.conftest import OpenRepository
from tests.processes import until
from tests.rpc.harness import Failure, Registry, User, failure_of, serving
from tests.rpc.test_model_files import DATA, upload_failure
from tests.storage.conftest import Clock, at_once, clock, timed

__all__ = ["clock", "timed"]  # fixtures

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


def own_files(size: int, letter: str = "x") -> dict[str, ModelFiles]:
    """So many bytes of files in the request itself."""
    return {"model_files": ModelFiles(dill=DillModelFiles(serialized_model_function=letter * size))}


@pytest.fixture
def timed_registry(timed: SqlRepository) -> Iterator[Registry]:
    """A server that bounds the bytes of files, and reads the test's clock."""
    with serving(timed, file_quota=FileQuota(OF_PRINCIPAL, OF_FOLDER)) as registry:
        yield registry


def expire(clock: Clock) -> None:
    """Let the time pass in which what is uploaded can be named."""
    clock.now_ms += UPLOADING_LIFETIME // timedelta(milliseconds=1)


def test_a_caller_without_room_gets_back_what_expired_however_many_uploads_those_are(
    timed_registry: Registry, clock: Clock
) -> None:
    admin = timed_registry.user("admin")
    model = admin.create_model("m")
    for _ in range(2 * EXPIRED_AT_ONCE):
        admin.create_version_with_files(model, b"x")
    rest = OF_PRINCIPAL - 2 * EXPIRED_AT_ONCE
    admin.upload(model, b"y" * rest)
    assert upload_failure(admin, *parts(model.rid, b"zz")).name == "QuotaExceeded"

    expire(clock)

    assert admin.create_version_with_files(model, b"z" * rest).version_number == 2 * EXPIRED_AT_ONCE + 1
    assert upload_failure(admin, *parts(model.rid, b"zz")).name == "QuotaExceeded"


def test_what_many_uploads_have_left_is_given_back_in_the_course_of_one(timed_registry: Registry, clock: Clock) -> None:
    admin = timed_registry.user("admin")
    model = admin.create_model("m")
    for _ in range(3 * EXPIRED_AT_ONCE):
        admin.upload(model, b"x" * (OF_PRINCIPAL // (3 * EXPIRED_AT_ONCE)))

    expire(clock)

    assert admin.create_version_with_files(model, b"z" * OF_PRINCIPAL).version_number == 1


def test_a_folder_without_room_gets_back_what_expired_of_others(timed_registry: Registry, clock: Clock) -> None:
    admin = timed_registry.user("admin")
    model = admin.create_model("m")
    for name in ("jane", "joe"):
        admin("GrantRole", resource_rid=model.rid, principal=f"user:{name}", role=ROLE_EDITOR)
        timed_registry.user(name).upload(model, b"x" * (OF_FOLDER // 2))
    assert told(upload_failure(admin, *parts(model.rid, DATA))) == exceeded(FOLDER, OF_FOLDER)

    expire(clock)

    assert admin.create_version_with_files(model, DATA).version_number == 1


def test_the_same_request_makes_one_version_at_once_though_there_is_room_for_one(
    registry: Registry, admin: User
) -> None:
    model = admin.create_model("m")
    request = {"request_id": str(uuid.uuid4()), **own_files(OF_PRINCIPAL)}

    versions = at_once(4, lambda _: admin.create_version(model, **request))

    assert {version.rid for version in versions} == {versions[0].rid}
    assert admin.download(versions[0]) == b"x" * OF_PRINCIPAL
    until(lambda: len(registry.files.names()) == 1)


def test_repetitions_count_nothing(registry: Registry, admin: User) -> None:
    model = admin.create_model("m")
    request = {"request_id": str(uuid.uuid4()), **own_files(OF_PRINCIPAL // 3)}

    at_once(3, lambda _: admin.create_version(model, **request))

    assert [admin.create_version(model, **own_files(OF_PRINCIPAL // 3)).version_number for _ in range(2)] == [2, 3]
    failure = admin.failure("CreateModelVersion", model_rid=model.rid, model_api=model_api(), **own_files(1))
    assert told(failure) == exceeded("user:admin", OF_PRINCIPAL)


def test_what_fails_behind_its_files_leaves_and_counts_nothing(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    """The files are taken in, and then the version itself is too large."""
    repository = open_repository(migrated_url, max_message_bytes=100_000)
    with serving(repository, file_quota=FileQuota(OF_PRINCIPAL, OF_FOLDER)) as registry:
        admin = registry.user("admin")
        model = admin.create_model("m")
        request = {"model_rid": model.rid, "model_api": model_api(), **own_files(OF_PRINCIPAL)}

        for _ in range(2):
            failure = admin.failure("CreateModelVersion", **request, conda_requirements=100 * ["a" * 1000])
            assert failure.name == "RequestTooLarge"
        until(lambda: not registry.files.names())

        version = admin("CreateModelVersion", **request)
        assert (version.version_number, admin.download(version)) == (1, b"x" * OF_PRINCIPAL)
