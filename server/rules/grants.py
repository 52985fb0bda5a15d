"""Who may manage the grants of a resource, and the changes."""

from __future__ import annotations

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, Grant, GrantChange, GrantRoleRequest, RevokeRoleRequest
from server.core import rids
from server.core.caller import Caller
from server.core.errors import AccessPermissionDenied, ResourceNeedsOwner
from server.core.permissions import TO_MANAGE_GRANTS
from server.storage.contract import Reader, Transaction
from server.storage.paging import Page, PageRequest


def grant_role(tx: Transaction, caller: Caller, request: GrantRoleRequest) -> Grant:
    """Give a principal a role on a resource. Raises ModelNotFound, AccessPermissionDenied and ResourceNeedsOwner."""
    if request.role >= ROLE_OWNER:
        require_owner(tx, caller, request.resource_rid)
    else:
        _require_another_owner(tx, caller, request.resource_rid, request.principal)
    grant = Grant(resource_rid=request.resource_rid, principal=request.principal, role=request.role)
    tx.set_grant(grant, caller.user)
    return grant


def revoke_role(tx: Transaction, caller: Caller, request: RevokeRoleRequest) -> None:
    """Take a principal's role on a resource away.

    Raises ModelNotFound, AccessPermissionDenied and ResourceNeedsOwner.
    """
    _require_another_owner(tx, caller, request.resource_rid, request.principal)
    tx.remove_grant(request.resource_rid, request.principal, caller.user)


def list_grants(reader: Reader, caller: Caller, resource_rid: str, page: PageRequest) -> Page[Grant]:
    """Return a page of a resource's grants. Raises ModelNotFound and AccessPermissionDenied."""
    require_owner(reader, caller, resource_rid)
    return reader.list_grants(resource_rid, page)


def list_grant_changes(reader: Reader, caller: Caller, resource_rid: str, page: PageRequest) -> Page[GrantChange]:
    """Return a page of the changes of a resource's grants. Raises ModelNotFound and AccessPermissionDenied."""
    require_owner(reader, caller, resource_rid)
    return reader.list_grant_changes(resource_rid, page)


def require_owner(reader: Reader, caller: Caller, resource_rid: str) -> str | None:
    """Return if the caller owns the resource: the RID of its folder if it is a model, else None.

    Raises ModelNotFound for a model that is absent or invisible, else AccessPermissionDenied. A folder is only a RID:
    there is nothing to be found.
    """
    folder_rid = None
    if rids.rid_type(resource_rid) == rids.MODEL:
        model, role = reader.get_model(resource_rid, caller)
        folder_rid = model.parent_folder_rid
    else:
        role = reader.get_role(resource_rid, caller)
    if role < TO_MANAGE_GRANTS:
        raise AccessPermissionDenied(resource_rid=resource_rid)
    return folder_rid


def _require_another_owner(tx: Transaction, caller: Caller, resource_rid: str, principal: str) -> None:
    """Return if the caller owns the resource, and may take that role from a principal: if that is not the last owner.

    The owners of a folder own the models in it, too. Administrators may do without. Raises what require_owner raises,
    and ResourceNeedsOwner.
    """
    # Two owners who take each other's role wait for one another here, and the second is no owner any more.
    tx.lock_owners(resource_rid)
    folder_rid = require_owner(tx, caller, resource_rid)
    if caller.is_admin or set(tx.owners(resource_rid)) - {principal}:
        return
    if folder_rid is None or not tx.owners(folder_rid):
        raise ResourceNeedsOwner(resource_rid=resource_rid, principal=principal)
