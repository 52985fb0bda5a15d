"""A resource that has an owner keeps one, unless an administrator takes the last one's role."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_VIEWER, RevokeRoleRequest
from server.core.errors import ModelNotFound
from server.rules.grants import revoke_role
from server.storage.contract import Transaction
from server.storage.sql.repository import SqlRepository
from tests.builders import add_model, caller, grant
from tests.conftest import OpenRepository
from tests.processes import until
from tests.rpc.harness import User
from tests.storage.inspection import waiting_for_locks

# How an owner gives the role up.
WAYS: list[tuple[str, dict[str, Any]]] = [("RevokeRole", {}), ("GrantRole", {"role": ROLE_EDITOR})]


def owners(admin: User, resource_rid: str) -> list[str]:
    grants = admin("ListGrants", resource_rid=resource_rid).grants
    return [grant.principal for grant in grants if grant.role == ROLE_OWNER]


@pytest.mark.database("shared")
@pytest.mark.parametrize(("rpc", "fields"), WAYS)
@pytest.mark.parametrize("what", ["model", "folder"])
def test_the_last_owner_keeps_the_role(admin: User, jane: User, what: str, rpc: str, fields: dict[str, Any]) -> None:
    resource = admin.folder if what == "folder" else admin.create_model("m").rid
    admin("GrantRole", resource_rid=resource, principal="user:jane", role=ROLE_OWNER)
    admin("RevokeRole", resource_rid=resource, principal="user:admin")

    failure = jane.failure(rpc, resource_rid=resource, principal="user:jane", **fields)

    assert (failure.name, failure.code) == ("ResourceNeedsOwner", grpc.StatusCode.FAILED_PRECONDITION)
    assert failure.parameters == {"resourceRid": resource, "principal": "user:jane"}
    assert owners(admin, resource) == ["user:jane"]
    # Other principals' roles are no matter, nor is that of an owner beside another.
    jane("GrantRole", resource_rid=resource, principal="user:joe", role=ROLE_VIEWER)
    jane("RevokeRole", resource_rid=resource, principal="user:joe")
    jane("GrantRole", resource_rid=resource, principal="group:ml", role=ROLE_OWNER)
    jane(rpc, resource_rid=resource, principal="user:jane", **fields)
    assert owners(admin, resource) == ["group:ml"]
    # An administrator may.
    admin(rpc, resource_rid=resource, principal="group:ml", **fields)
    assert not owners(admin, resource)


@pytest.mark.database("shared")
@pytest.mark.parametrize(("rpc", "fields"), WAYS)
def test_a_model_whose_folder_has_an_owner_needs_no_other(
    admin: User, jane: User, rpc: str, fields: dict[str, Any]
) -> None:
    admin("GrantRole", resource_rid=admin.folder, principal="group:ml", role=ROLE_OWNER)
    model = admin.create_model("m")
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER)
    admin("RevokeRole", resource_rid=model.rid, principal="user:admin")
    jane(rpc, resource_rid=model.rid, principal="user:jane", **fields)
    assert not owners(admin, model.rid)


def test_of_two_owners_who_revoke_each_other_at_once_one_stays(
    migrated_url: str, backend: str, open_repository: OpenRepository
) -> None:
    repositories = [open_repository(migrated_url) for _ in range(2)]
    model = add_model(repositories[0])
    for name in ("user:jane", "user:joe"):
        grant(repositories[0], model.rid, name, ROLE_OWNER)

    def revoking(owner: str, other: str) -> Callable[[Transaction], None]:
        request = RevokeRoleRequest(resource_rid=model.rid, principal=other)
        return lambda tx: revoke_role(tx, caller(owner), request)

    with ThreadPoolExecutor(1) as thread:

        def revoke_while_the_other_waits(tx: Transaction) -> Any:
            revoking("user:jane", "user:joe")(tx)
            other = thread.submit(repositories[1].write, revoking("user:joe", "user:jane"))
            until_waiting(backend, repositories[0])
            return other

        other = repositories[0].write(revoke_while_the_other_waits)
        # Who has lost the role in the meantime has nothing to say, and sees no model any more.
        with pytest.raises(ModelNotFound):
            other.result()
    assert repositories[0].read(lambda reader: reader.owners(model.rid)) == ["user:jane"]


def until_waiting(backend: str, repository: SqlRepository) -> None:
    """Return when the other transaction waits; on SQLite, where all wait for their turn, there is nothing to see."""
    if backend == "postgresql":
        until(lambda: waiting_for_locks(repository) > 0)
