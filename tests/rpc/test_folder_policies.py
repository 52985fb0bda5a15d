"""Who owns the models that are created in a folder is the folder's choice."""

from __future__ import annotations

import pytest

from modelregistry.v1.access_service_pb2 import (
    NEW_MODEL_OWNER_CREATOR,
    NEW_MODEL_OWNER_FOLDER,
    ROLE_EDITOR,
    ROLE_OWNER,
    ROLE_VIEWER,
    FolderPolicy,
)
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF
from server.storage.sql.tables import folder_policies
from tests.builders import new_folder_rid
from tests.rpc.harness import SOME_MODEL, Registry, User
from tests.storage.inspection import rows

pytestmark = pytest.mark.database("shared")


def test_a_folder_without_a_policy_lets_creators_own_what_they_create(
    admin: User, jane: User, registry: Registry
) -> None:
    admin("GrantRole", resource_rid=admin.folder, principal="group:ml", role=ROLE_EDITOR)
    assert admin("GetFolderPolicy", folder_rid=admin.folder) == FolderPolicy(
        folder_rid=admin.folder, new_model_owner=NEW_MODEL_OWNER_CREATOR
    )
    model = registry.user("jane", "ml").create_model("m", admin.folder)
    # Also out of the group.
    assert jane("ListGrants", resource_rid=model.rid).grants[0].role == ROLE_OWNER


def test_where_the_folder_owns_creators_have_their_roles_on_it_and_no_others(
    admin: User, jane: User, registry: Registry
) -> None:
    admin("GrantRole", resource_rid=admin.folder, principal="group:ml", role=ROLE_EDITOR)
    policy = admin("SetFolderPolicy", folder_rid=admin.folder, new_model_owner=NEW_MODEL_OWNER_FOLDER)
    assert (policy.folder_rid, policy.new_model_owner) == (admin.folder, NEW_MODEL_OWNER_FOLDER)
    assert policy.changed_by == "user:admin"
    assert admin("GetFolderPolicy", folder_rid=admin.folder) == policy

    editor = registry.user("jane", "ml")
    model = editor.create_model("m", admin.folder)

    assert model.created_by == "user:jane"
    assert not admin("ListGrants", resource_rid=model.rid).grants
    editor.promote(editor.create_version(model), model)
    grant = {"resource_rid": model.rid, "principal": "user:joe", "role": ROLE_VIEWER}
    assert editor.failure("GrantRole", **grant).name == "AccessPermissionDenied"
    refused = editor.failure("SetBranchPolicy", model_rid=model.rid, compatibility=COMPATIBILITY_MODE_OFF)
    assert refused.name == "AccessPermissionDenied"
    # Out of the group.
    assert jane.failure("GetModel", model_rid=model.rid).name == "ModelNotFound"


def test_a_policy_holds_for_what_is_created_afterwards_and_each_is_on_record(admin: User, migrated_url: str) -> None:
    owned = [admin.create_model("before")]
    admin("SetFolderPolicy", folder_rid=admin.folder, new_model_owner=NEW_MODEL_OWNER_FOLDER)
    unowned = admin.create_model("meanwhile")
    admin("SetFolderPolicy", folder_rid=admin.folder, new_model_owner=NEW_MODEL_OWNER_CREATOR)
    owned.append(admin.create_model("afterwards"))

    assert all(admin("ListGrants", resource_rid=model.rid).grants for model in owned)
    assert not admin("ListGrants", resource_rid=unowned.rid).grants
    recorded = [row for row in rows(migrated_url, folder_policies) if row.folder_rid == admin.folder]
    assert [(row.new_model_owner, row.changed_by) for row in recorded] == [
        (NEW_MODEL_OWNER_FOLDER, "user:admin"),
        (NEW_MODEL_OWNER_CREATOR, "user:admin"),
    ]


def test_policies_are_for_owners_of_the_folder(admin: User, jane: User) -> None:
    calls = [("SetFolderPolicy", {"new_model_owner": NEW_MODEL_OWNER_FOLDER}), ("GetFolderPolicy", {})]
    admin("GrantRole", resource_rid=admin.folder, principal="user:jane", role=ROLE_EDITOR)
    for rpc, fields in calls:
        for folder in (admin.folder, new_folder_rid()):
            failure = jane.failure(rpc, folder_rid=folder, **fields)
            assert (failure.name, failure.parameters) == ("AccessPermissionDenied", {"resourceRid": folder}), rpc
    admin("GrantRole", resource_rid=admin.folder, principal="user:jane", role=ROLE_OWNER)
    for rpc, fields in calls:
        assert jane(rpc, folder_rid=admin.folder, **fields) is not None


def test_a_policy_names_a_folder_and_an_owner(admin: User) -> None:
    failure = admin.failure("SetFolderPolicy", folder_rid=SOME_MODEL)
    assert (failure.name, sorted(field for field, _ in failure.violations)) == (
        "InvalidArgument",
        ["folder_rid", "new_model_owner"],
    )
