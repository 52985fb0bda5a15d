"""What administrators alone may do, whatever roles others have."""

from __future__ import annotations

from modelregistry.v1.access_service_pb2 import (
    ROLE_OWNER,
    DisabledPrincipal,
    DisablePrincipalRequest,
    EnablePrincipalRequest,
    Grant,
    TransferOwnershipRequest,
)
from server.core.caller import Caller
from server.core.errors import AdministratorRequired, FieldViolation, InvalidArgument
from server.rules.grants import require_owner
from server.storage.contract import Reader, Transaction
from server.storage.paging import Page, PageRequest


def transfer_ownership(tx: Transaction, caller: Caller, request: TransferOwnershipRequest) -> Grant:
    """Make a principal the only one that owns this very RID. Raises AdministratorRequired and ModelNotFound."""
    require_administrator(caller)
    tx.lock_owners(request.resource_rid)
    require_owner(tx, caller, request.resource_rid)
    grant = Grant(resource_rid=request.resource_rid, principal=request.principal, role=ROLE_OWNER)
    tx.set_grant(grant, caller.user)
    for owner in tx.owners(request.resource_rid):
        if owner != request.principal:
            tx.remove_grant(request.resource_rid, owner, caller.user)
    return grant


def disable_principal(tx: Transaction, caller: Caller, request: DisablePrincipalRequest) -> DisabledPrincipal:
    """Disable a principal that is not the caller's. Raises AdministratorRequired and InvalidArgument."""
    require_administrator(caller)
    if request.principal in caller.principals:
        sentence = "is you, or a group of yours: another administrator has to disable it"
        raise InvalidArgument(violations=(FieldViolation("principal", sentence),))
    return tx.disable_principal(request.principal, request.reason, caller.user)


def enable_principal(tx: Transaction, caller: Caller, request: EnablePrincipalRequest) -> None:
    """Enable a principal again. Raises AdministratorRequired."""
    require_administrator(caller)
    tx.enable_principal(request.principal, caller.user)


def list_disabled_principals(reader: Reader, caller: Caller, page: PageRequest) -> Page[DisabledPrincipal]:
    """Return a page of the principals that are disabled. Raises AdministratorRequired."""
    require_administrator(caller)
    return reader.list_disabled_principals(page)


def require_administrator(caller: Caller) -> None:
    """Return if the caller is one. Raises AdministratorRequired, whatever the call is about."""
    if not caller.is_admin:
        raise AdministratorRequired
