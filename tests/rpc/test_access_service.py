"""AccessService over a real channel."""

from __future__ import annotations

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_VIEWER, Grant, GrantChange
from server.storage.paging import Paging
from tests.builders import FOLDER
from tests.rpc.harness import SOME_MODEL, Registry, User

pytestmark = pytest.mark.database("shared")

CALLS = [
    ("GrantRole", {"principal": "user:joe", "role": ROLE_VIEWER}),
    ("RevokeRole", {"principal": "user:joe"}),
    ("ListGrants", {}),
    ("ListGrantChanges", {}),
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


def test_every_change_of_a_grant_is_listed_with_who_made_it_and_when_the_newest_first(admin: User, jane: User) -> None:
    model = admin.create_model("m")
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER)
    jane("GrantRole", resource_rid=model.rid, principal="group:g", role=ROLE_VIEWER)
    admin("RevokeRole", resource_rid=model.rid, principal="group:g")
    admin("RevokeRole", resource_rid=model.rid, principal="user:nobody")
    # Of other resources, nothing is told here.
    admin("GrantRole", resource_rid=admin.folder, principal="user:jane", role=ROLE_VIEWER)

    changes = jane("ListGrantChanges", resource_rid=model.rid).changes

    def told(change: GrantChange) -> tuple[str, int | None, str]:
        return change.principal, change.role or None, change.changed_by

    assert [told(change) for change in changes] == [
        ("group:g", None, "user:admin"),
        ("group:g", ROLE_VIEWER, "user:jane"),
        ("user:jane", ROLE_OWNER, "user:admin"),
        ("user:admin", ROLE_OWNER, "user:admin"),
    ]
    assert {change.resource_rid for change in changes} == {model.rid}
    times = [change.changed_time.ToMilliseconds() for change in changes]
    assert times == sorted(times, reverse=True)
    assert times[-1] >= model.created_time.ToMilliseconds()


def test_changes_of_grants_are_listed_page_by_page_whatever_is_changed_meanwhile(admin: User) -> None:
    model = admin.create_model("m")
    for name in ("a", "b", "c"):
        admin("GrantRole", resource_rid=model.rid, principal=f"group:{name}", role=ROLE_VIEWER)
    listed, token = [], None
    for _ in range(2):
        page = admin("ListGrantChanges", resource_rid=model.rid, page_size=2, page_token=token)
        listed += [change.principal for change in page.changes]
        token = page.next_page_token if page.HasField("next_page_token") else None
        admin("GrantRole", resource_rid=model.rid, principal="group:d", role=ROLE_VIEWER)
    assert (listed, token) == (["group:c", "group:b", "group:a", "user:admin"], None)

    first = admin("ListGrantChanges", resource_rid=model.rid, page_size=1)
    other = admin.create_model("other")
    refused = admin.failure("ListGrantChanges", resource_rid=other.rid, page_token=first.next_page_token)
    assert refused.name == "InvalidPageToken"
    # A token that was made up for this very list, and is no position of it.
    made_up = Paging(str, "ListGrantChanges", model.rid).token("17")
    assert admin.failure("ListGrantChanges", resource_rid=model.rid, page_token=made_up).name == "InvalidPageToken"


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
