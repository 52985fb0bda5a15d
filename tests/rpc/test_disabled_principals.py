"""A principal that is disabled is not served, whatever else it has: at once here, within about a second elsewhere."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.model_service_pb2 import DownloadModelFilesRequest, UploadModelFilesRequest
from modelregistry.v1.model_service_pb2_grpc import ModelServiceStub
from server.rpc.admission.receiving import Incoming
from server.storage.sql.tables import principal_changes
from tests import builders
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.rpc.harness import DEADLINE_SECONDS, SOME_MODEL, Failure, Registry, User, failure_of, path_of, serving
from tests.storage.inspection import rows, waiting_for_locks

FILES_BYTES = 48 * 2**20


@pytest.fixture
def name() -> str:
    """A user whom other tests do not know, as they share the server."""
    return f"mallory-{uuid.uuid4()}"


def disable(admin: User, principal: str) -> Any:
    return admin("DisablePrincipal", principal=principal, reason="has left\nfor good")


@pytest.mark.database("shared")
def test_the_very_next_call_of_a_disabled_user_is_refused_and_served_again_when_enabled(
    admin: User, registry: Registry, name: str
) -> None:
    model, mallory = admin.create_model("m"), registry.user(name, "ml")
    admin("GrantRole", resource_rid=model.rid, principal=f"user:{name}", role=ROLE_OWNER)
    mallory("GetModel", model_rid=model.rid)

    disable(admin, f"user:{name}")

    for rpc, fields in (
        ("GetModel", {"model_rid": model.rid}),
        ("ListModels", {}),
        ("CreateModelVersion", {"model_rid": model.rid}),
        ("GrantRole", {"resource_rid": model.rid, "principal": "user:joe", "role": ROLE_VIEWER}),
    ):
        failure = mallory.failure(rpc, **fields)
        assert (failure.name, failure.code) == ("PrincipalDisabled", grpc.StatusCode.PERMISSION_DENIED), rpc
        assert failure.parameters == {"principal": f"user:{name}"}
    # With a token that the server has not seen before, either.
    assert registry.user(name, "other").failure("ListModels").name == "PrincipalDisabled"

    admin("EnablePrincipal", principal=f"user:{name}")
    assert mallory("GetModel", model_rid=model.rid) == model


@pytest.mark.database("shared")
def test_it_comes_behind_credentials_and_before_the_scope(admin: User, registry: Registry, name: str) -> None:
    disable(admin, f"user:{name}")
    without_scope = registry.user(name, scopes=())
    assert without_scope.failure("ListModels").name == "PrincipalDisabled"
    assert registry.bearing("no token").failure("ListModels").name == "InvalidCredentials"


@pytest.mark.database("shared")
def test_a_disabled_group_gives_its_members_nothing(admin: User, registry: Registry, name: str) -> None:
    model, group = admin.create_model("m"), f"group-{name}"
    admin("GrantRole", resource_rid=model.rid, principal=f"group:{group}", role=ROLE_EDITOR)
    member = registry.user(name, group, "other")
    member("GetModel", model_rid=model.rid)

    disable(admin, f"group:{group}")

    assert member.failure("GetModel", model_rid=model.rid).name == "ModelNotFound"
    assert not member("ListModels").models
    admin("EnablePrincipal", principal=f"group:{group}")
    assert member("GetModel", model_rid=model.rid) == model


def test_an_administrator_can_be_disabled_by_another_and_not_by_itself(
    registry: Registry, admin: User, migrated_url: str
) -> None:
    for principal in ("user:admin", "group:ops"):
        failure = registry.user("admin", "ops").failure("DisablePrincipal", principal=principal, reason="oops")
        assert failure.name == "InvalidArgument"
        assert [field for field, _ in failure.violations] == ["principal"]
    assert not rows(migrated_url, principal_changes)
    assert admin("ListModels") is not None


@pytest.mark.database("shared")
@pytest.mark.parametrize(
    ("rpc", "fields"),
    [
        ("DisablePrincipal", {"principal": "user:joe", "reason": "why not"}),
        ("EnablePrincipal", {"principal": "user:joe"}),
        ("ListDisabledPrincipals", {}),
        ("TransferOwnership", {"resource_rid": SOME_MODEL, "principal": "user:joe"}),
    ],
)
def test_others_than_administrators_are_told_so_whatever_it_is_about(
    admin: User, jane: User, rpc: str, fields: dict[str, Any]
) -> None:
    admin("GrantRole", resource_rid=admin.folder, principal="user:jane", role=ROLE_OWNER)
    failure = jane.failure(rpc, **fields)
    assert (failure.name, failure.code) == ("AdministratorRequired", grpc.StatusCode.PERMISSION_DENIED)


@pytest.mark.database("shared")
def test_a_reason_is_required(admin: User) -> None:
    failure = admin.failure("DisablePrincipal", principal="user:joe")
    assert (failure.name, failure.violations) == ("InvalidArgument", [("reason", "is required")])


def test_each_change_is_on_record_and_the_list_tells_the_last_ones(
    admin: User, registry: Registry, migrated_url: str
) -> None:
    names = [f"user:{name}" for name in "cab"]
    disabled = [disable(admin, name) for name in names]
    admin("EnablePrincipal", principal="user:a")
    admin("EnablePrincipal", principal="user:never")
    again = admin("DisablePrincipal", principal="user:c", reason="again")

    first = admin("ListDisabledPrincipals", page_size=1)
    second = admin("ListDisabledPrincipals", page_size=1, page_token=first.next_page_token)

    assert [*first.disabled_principals, *second.disabled_principals] == [disabled[2], again]
    assert not second.HasField("next_page_token")
    assert (again.disabled_by, again.reason) == ("user:admin", "again")
    assert again.disabled_time.ToMilliseconds() >= disabled[0].disabled_time.ToMilliseconds() > 0
    assert [(row.principal, row.reason, row.changed_by) for row in rows(migrated_url, principal_changes)] == [
        *((name, "has left\nfor good", "user:admin") for name in names),
        ("user:a", None, "user:admin"),
        ("user:never", None, "user:admin"),
        ("user:c", "again", "user:admin"),
    ]


def test_another_server_knows_it_before_it_serves_and_hears_of_it_by_its_call_to_itself(
    registry: Registry, admin: User, migrated_url: str, open_repository: OpenRepository
) -> None:
    disable(admin, "user:early")
    with serving(open_repository(migrated_url)) as other:
        # The issuer of the other server is another one, of the same names.
        early, late = other.user("early"), other.user("late")
        assert early.failure("ListModels").name == "PrincipalDisabled"
        assert late("ListModels") is not None
        other.readiness.start()
        disable(admin, "user:late")
        assert until_refused(late).name == "PrincipalDisabled"
        assert registry.user("late").failure("ListModels").name == "PrincipalDisabled"


def until_refused(user: User) -> Failure:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            user("ListModels")
        except grpc.RpcError as error:
            return failure_of(error)
    raise AssertionError("the user is still served")


@pytest.mark.database("shared")
def test_a_call_whose_message_comes_afterwards_is_refused(
    admin: User, registry: Registry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its credentials were found good when its headers came."""
    mallory, begun, disabled = registry.user(name), threading.Event(), threading.Event()
    mallory("ListModels")
    receiving = registry.chain.admission.receiving
    enter = receiving.enter

    def noted(call: Incoming) -> None:
        if call.caller == f"user:{name}":
            begun.set()
        enter(call)

    def message() -> Iterator[bytes]:
        assert disabled.wait(DEADLINE_SECONDS)
        yield b""

    monkeypatch.setattr(receiving, "enter", noted)
    call = mallory.channel.stream_unary(path_of("ListModels")).future(
        message(), metadata=mallory.metadata, timeout=DEADLINE_SECONDS
    )
    assert begun.wait(DEADLINE_SECONDS)
    disable(admin, f"user:{name}")
    disabled.set()
    assert failure_of(call.exception()).name == "PrincipalDisabled"


@pytest.mark.database("shared")
def test_transfers_that_run_end_with_the_next_part(admin: User, registry: Registry, name: str) -> None:
    model, mallory = admin.create_model("m"), registry.user(name)
    admin("GrantRole", resource_rid=model.rid, principal=f"user:{name}", role=ROLE_EDITOR)
    version = admin.create_version_with_files(model, bytes(FILES_BYTES))
    stub = ModelServiceStub(mallory.channel)
    request = DownloadModelFilesRequest(model_rid=model.rid, model_version_rid=version.rid)
    parts = stub.DownloadModelFiles(request, metadata=mallory.metadata, timeout=DEADLINE_SECONDS)
    next(parts)
    disable(admin, f"user:{name}")
    # What was on its way may still arrive, and it is not all.
    with pytest.raises(grpc.RpcError) as downloading:
        list(parts)
    assert failure_of(downloading.value).name == "PrincipalDisabled"

    admin("EnablePrincipal", principal=f"user:{name}")

    def sent() -> Iterator[UploadModelFilesRequest]:
        yield UploadModelFilesRequest(model_rid=model.rid)
        disable(admin, f"user:{name}")
        yield UploadModelFilesRequest(chunk=b"more")

    with pytest.raises(grpc.RpcError) as uploading:
        mallory.send_parts(sent())
    assert failure_of(uploading.value).name == "PrincipalDisabled"


def test_a_call_that_is_under_way_by_a_group_that_is_disabled_is_not_carried_out(
    new_database: NewDatabase, open_repository: OpenRepository
) -> None:
    repository = open_repository(new_database("postgresql", migrated=True))
    with serving(repository) as registry, ThreadPoolExecutor(1) as thread:
        admin, jane = registry.user("admin"), registry.user("jane", "ml")
        model = admin.create_model("m")
        admin("GrantRole", resource_rid=model.rid, principal="group:ml", role=ROLE_OWNER)
        source = admin.create_version(model)
        request = {"model_rid": model.rid, "source_model_version_rid": source.rid, "preview": True}
        with builders.held(repository, source):
            promotion = thread.submit(jane.failure, "PromoteVersion", **request)
            until(lambda: waiting_for_locks(repository) == 1)
            disable(admin, "group:ml")
        refused = promotion.result(DEADLINE_SECONDS)
        assert (refused.name, refused.parameters) == ("PrincipalDisabled", {"principal": "group:ml"})
        # Who is not disabled is served, without the group.
        assert jane.failure("PromoteVersion", **request).name == "ModelNotFound"
        assert admin("GetBranch", model_rid=model.rid).version_count == 2
