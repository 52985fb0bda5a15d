"""An administrator makes a principal the one owner of a resource."""

from __future__ import annotations

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_VIEWER
from server.storage.sql.tables import grant_changes
from tests.rpc.harness import SOME_MODEL, User
from tests.storage.inspection import rows

pytestmark = pytest.mark.database("shared")


@pytest.mark.parametrize("what", ["model", "folder"])
def test_the_new_owner_is_the_only_one_on_that_very_rid_and_each_change_is_on_record(
    admin: User, migrated_url: str, what: str
) -> None:
    model = admin.create_model("m")
    resource, other = (model.rid, admin.folder) if what == "model" else (admin.folder, model.rid)
    for principal, role in (("user:joe", ROLE_OWNER), ("user:new", ROLE_EDITOR), ("user:viewer", ROLE_VIEWER)):
        for rid in (resource, other):
            admin("GrantRole", resource_rid=rid, principal=principal, role=role)
    before = len(rows(migrated_url, grant_changes))
    elsewhere = admin("ListGrants", resource_rid=other)

    grant = admin("TransferOwnership", resource_rid=resource, principal="user:new")

    assert (grant.resource_rid, grant.principal, grant.role) == (resource, "user:new", ROLE_OWNER)
    grants = admin("ListGrants", resource_rid=resource).grants
    assert [(each.principal, each.role) for each in grants] == [
        ("user:new", ROLE_OWNER),
        ("user:viewer", ROLE_VIEWER),
    ]
    assert admin("ListGrants", resource_rid=other) == elsewhere
    changes = [
        (row.principal, row.role, row.changed_by)
        for row in rows(migrated_url, grant_changes)[before:]
        if row.resource_rid == resource
    ]
    lost = ["user:admin", "user:joe"] if what == "model" else ["user:joe"]
    assert changes == [("user:new", ROLE_OWNER, "user:admin"), *((each, None, "user:admin") for each in lost)]


def test_an_absent_model_has_no_owner(admin: User) -> None:
    failure = admin.failure("TransferOwnership", resource_rid=SOME_MODEL, principal="user:new")
    assert failure.name == "ModelNotFound"
