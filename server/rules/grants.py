"""Who may manage the grants of a resource, and the changes."""

from __future__ import annotations

from modelregistry.v1.access_service_pb2 import Grant, GrantRoleRequest, RevokeRoleRequest
from server.core import rids
from server.core.caller import Caller
from server.core.errors import AccessPermissionDenied
from server.core.permissions import TO_MANAGE_GRANTS
from server.storage.contract import Reader, Transaction
from server.storage.paging import Page, PageRequest


def grant_role(tx: Transaction, caller: Caller, request: GrantRoleRequest) -> Grant:
    """Give a principal a role on a resource. Raises ModelNotFound and AccessPermissionDenied."""
    require_owner(tx, caller, request.resource_rid)
    grant = Grant(resource_rid=request.resource_rid, principal=request.principal, role=request.role)
    tx.set_grant(grant, caller.user)
    return grant


def revoke_role(tx: Transaction, caller: Caller, request: RevokeRoleRequest) -> None:
    """Take a principal's role on a resource away. Raises ModelNotFound and AccessPermissionDenied."""
    require_owner(tx, caller, request.resource_rid)
    tx.remove_grant(request.resource_rid, request.principal, caller.user)


def list_grants(reader: Reader, caller: Caller, resource_rid: str, page: PageRequest) -> Page[Grant]:
    """Return a page of a resource's grants. Raises ModelNotFound and AccessPermissionDenied."""
    require_owner(reader, caller, resource_rid)
    return reader.list_grants(resource_rid, page)


def require_owner(reader: Reader, caller: Caller, resource_rid: str) -> None:
    """Return if the caller owns the resource.

    Raises ModelNotFound for a model that is absent or invisible, else AccessPermissionDenied. A folder is only a RID:
    there is nothing to be found.
    """
    if rids.rid_type(resource_rid) == rids.MODEL:
        role = reader.get_model(resource_rid, caller).role
    else:
        role = reader.get_role(resource_rid, caller)
    if role < TO_MANAGE_GRANTS:
        raise AccessPermissionDenied(resource_rid=resource_rid)
