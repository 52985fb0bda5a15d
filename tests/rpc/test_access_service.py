"""AccessService over a real channel."""

from __future__ import annotations

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_VIEWER, Grant
from tests.builders import FOLDER
from tests.rpc.harness import SOME_MODEL, Registry, User

pytestmark = pytest.mark.database("shared")

CALLS = [
    ("GrantRole", {"principal": "user:joe", "role": ROLE_VIEWER}),
    ("RevokeRole", {"principal": "user:joe"}),
    ("ListGrants", {}),
]


def test_a_grant_replaces_the_role_that_the_principal_had(admin: User) -> None:
    model = admin.create_model("m")
    for role in (ROLE_VIEWER, ROLE_EDITOR):
        granted = admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=role)
        assert (granted.resource_rid, granted.principal, granted.role) == (model.rid, "user:jane", role)
    grants = admin("ListGrants", resource_rid=model.rid).grants
    assert [(grant.principal, grant.role) for grant in grants] == [
        ("user:admin", ROLE_OWNER),
        ("user:jane", ROLE_EDITOR),
    ]


def test_grants_are_listed_by_principal_page_by_page(admin: User) -> None:
    for name in ("c", "a", "b"):
        admin("GrantRole", resource_rid=admin.folder, principal=f"group:{name}", role=ROLE_VIEWER)
    first = admin("ListGrants", resource_rid=admin.folder, page_size=2)
    second = admin("ListGrants", resource_rid=admin.folder, page_size=2, page_token=first.next_page_token)
    assert [grant.principal for page in (first, second) for grant in page.grants] == ["group:a", "group:b", "group:c"]
    assert not second.HasField("next_page_token")


def test_revoking_what_was_not_granted_succeeds(admin: User) -> None:
    model = admin.create_model("m")
    assert admin("RevokeRole", resource_rid=model.rid, principal="user:nobody") is not None


@pytest.mark.parametrize(("rpc", "fields"), CALLS)
def test_managing_grants_takes_owner(admin: User, jane: User, rpc: str, fields: dict[str, object]) -> None:
    model = admin.create_model("m")
    invisible = jane.failure(rpc, resource_rid=model.rid, **fields)
    assert (invisible.name, invisible.parameters) == ("ModelNotFound", {"modelRid": model.rid})
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_EDITOR)
    denied = jane.failure(rpc, resource_rid=model.rid, **fields)
    assert (denied.name, denied.code) == ("AccessPermissionDenied", grpc.StatusCode.PERMISSION_DENIED)
    assert denied.parameters == {"resourceRid": model.rid}
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER)
    assert jane(rpc, resource_rid=model.rid, **fields) is not None


@pytest.mark.parametrize(("rpc", "fields"), CALLS)
def test_an_owner_of_the_folder_manages_its_grants_and_those_of_its_models(
    admin: User, jane: User, rpc: str, fields: dict[str, object]
) -> None:
    model = admin.create_model("m")
    assert jane.failure(rpc, resource_rid=admin.folder, **fields).name == "AccessPermissionDenied"
    admin("GrantRole", resource_rid=admin.folder, principal="user:jane", role=ROLE_OWNER)
    for resource in (admin.folder, model.rid):
        assert jane(rpc, resource_rid=resource, **fields) is not None


@pytest.mark.parametrize(("rpc", "fields"), CALLS)
def test_an_absent_model_has_no_grants_even_for_administrators(
    admin: User, rpc: str, fields: dict[str, object]
) -> None:
    assert admin.failure(rpc, resource_rid=SOME_MODEL, **fields).name == "ModelNotFound"


@pytest.mark.parametrize(("rpc", "fields"), CALLS)
def test_only_models_and_folders_have_grants(admin: User, rpc: str, fields: dict[str, object]) -> None:
    failure = admin.failure(rpc, resource_rid="ri.models.main.model-version.x", **fields)
    assert (failure.name, [field for field, _ in failure.violations]) == ("InvalidArgument", ["resource_rid"])


@pytest.mark.parametrize("principal", ["", "jane", "user:", "robot:r2", "user:" + "x" * 251, "group:a\x00b"])
def test_a_malformed_principal_is_refused(admin: User, principal: str) -> None:
    failure = admin.failure("GrantRole", resource_rid=FOLDER, principal=principal, role=ROLE_VIEWER)
    assert (failure.name, [field for field, _ in failure.violations]) == ("InvalidArgument", ["principal"])


@pytest.mark.parametrize("role", [0, 5, -1])
def test_an_unknown_role_is_refused(admin: User, role: int) -> None:
    failure = admin.failure("GrantRole", resource_rid=FOLDER, principal="user:jane", role=role)
    assert (failure.name, [field for field, _ in failure.violations]) == ("InvalidArgument", ["role"])


def test_what_a_name_was_given_that_gets_nothing_any_more_can_be_taken_away(registry: Registry, admin: User) -> None:
    model, principal = admin.create_model("unseen"), "user:jane\u200b"
    failure = admin.failure("GrantRole", resource_rid=model.rid, principal=principal, role=ROLE_VIEWER)
    assert (failure.name, [field for field, _ in failure.violations]) == ("InvalidArgument", ["principal"])
    # As servers of the release before gave it.
    grant = Grant(resource_rid=model.rid, principal=principal, role=ROLE_VIEWER)
    registry.repository.write(lambda tx: tx.set_grant(grant, "user:admin"))
    assert principal in granted_to(admin, model.rid)
    admin("RevokeRole", resource_rid=model.rid, principal=principal)
    assert principal not in granted_to(admin, model.rid)


def granted_to(user: User, resource_rid: str) -> list[str]:
    return [grant.principal for grant in user("ListGrants", resource_rid=resource_rid).grants]
