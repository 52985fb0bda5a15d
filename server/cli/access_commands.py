"""Commands that call AccessService."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from google.protobuf.message import Message

from modelregistry.v1.access_service_pb2 import (
    DisablePrincipalRequest,
    EnablePrincipalRequest,
    GetFolderPolicyRequest,
    GrantRoleRequest,
    ListDisabledPrincipalsRequest,
    ListGrantChangesRequest,
    ListGrantsRequest,
    NewModelOwner,
    RevokeRoleRequest,
    Role,
    SetFolderPolicyRequest,
    TransferOwnershipRequest,
)
from modelregistry_client import Registry
from server.cli.options import PageSize, PageToken, RequiredReason

Resource = Annotated[str, typer.Argument(help="The RID of a model or folder.")]
Principal = Annotated[str, typer.Argument(help="user:NAME or group:NAME.")]
Folder = Annotated[str, typer.Argument(help="The RID of a folder.")]
Owner = Annotated[
    Literal["creator", "folder"],
    typer.Argument(help="Who owns a new model: the principal that creates it, or the folder's owners alone."),
]
RoleName = Annotated[
    Literal["viewer", "promoter", "editor", "owner"],
    typer.Argument(help="What the principal may do; each role includes the ones before."),
]


def grant(registry: Registry, resource_rid: Resource, principal: Principal, role: RoleName) -> Message:
    """Give a principal a role on a model, or on a folder and so on every model in it.

    [bold]modelregistry grant ri.models.main.model.… group:ml-release promoter[/bold]
    """
    request = GrantRoleRequest(resource_rid=resource_rid, principal=principal, role=Role.Value(f"ROLE_{role.upper()}"))
    return registry.access.GrantRole(request)


def revoke(registry: Registry, resource_rid: Resource, principal: Principal) -> Message:
    """Take a principal's role on a model or folder away.

    [bold]modelregistry revoke ri.models.main.model.… group:ml-release[/bold]
    """
    return registry.access.RevokeRole(RevokeRoleRequest(resource_rid=resource_rid, principal=principal))


def grants(
    registry: Registry, resource_rid: Resource, page_size: PageSize = 0, page_token: PageToken = None
) -> Message:
    """List the grants on a model or folder.

    [bold]modelregistry grants ri.models.main.model.… --output table[/bold]
    """
    request = ListGrantsRequest(resource_rid=resource_rid, page_size=page_size, page_token=page_token)
    return registry.access.ListGrants(request)


def grant_changes(
    registry: Registry, resource_rid: Resource, page_size: PageSize = 0, page_token: PageToken = None
) -> Message:
    """List who changed the grants on a model or folder, and when; the newest change first.

    [bold]modelregistry grant-changes ri.models.main.model.… --output table[/bold]
    """
    request = ListGrantChangesRequest(resource_rid=resource_rid, page_size=page_size, page_token=page_token)
    return registry.access.ListGrantChanges(request)


def set_folder_policy(registry: Registry, folder_rid: Folder, new_model_owner: Owner) -> Message:
    """Say who owns the models that are created in a folder from now on.

    [bold]modelregistry set-folder-policy ri.compass.main.folder.… folder[/bold]
    """
    owner = NewModelOwner.Value(f"NEW_MODEL_OWNER_{new_model_owner.upper()}")
    return registry.access.SetFolderPolicy(SetFolderPolicyRequest(folder_rid=folder_rid, new_model_owner=owner))


def get_folder_policy(registry: Registry, folder_rid: Folder) -> Message:
    """Print who owns the models that are created in a folder.

    [bold]modelregistry get-folder-policy ri.compass.main.folder.…[/bold]
    """
    return registry.access.GetFolderPolicy(GetFolderPolicyRequest(folder_rid=folder_rid))


def transfer_ownership(registry: Registry, resource_rid: Resource, principal: Principal) -> Message:
    """Make a principal the one owner of a model or folder; for administrators.

    [bold]modelregistry transfer-ownership ri.models.main.model.… group:ml-release[/bold]
    """
    request = TransferOwnershipRequest(resource_rid=resource_rid, principal=principal)
    return registry.access.TransferOwnership(request)


def disable_principal(registry: Registry, principal: Principal, reason: RequiredReason) -> Message:
    """Serve a user no more, or let a group give its members nothing; for administrators.

    [bold]modelregistry disable-principal user:jane --reason "has left"[/bold]
    """
    return registry.access.DisablePrincipal(DisablePrincipalRequest(principal=principal, reason=reason))


def enable_principal(registry: Registry, principal: Principal) -> Message:
    """Serve a user or a group again; for administrators.

    [bold]modelregistry enable-principal user:jane[/bold]
    """
    return registry.access.EnablePrincipal(EnablePrincipalRequest(principal=principal))


def disabled_principals(registry: Registry, page_size: PageSize = 0, page_token: PageToken = None) -> Message:
    """List the principals that are disabled; for administrators.

    [bold]modelregistry disabled-principals --output table[/bold]
    """
    request = ListDisabledPrincipalsRequest(page_size=page_size, page_token=page_token)
    return registry.access.ListDisabledPrincipals(request)
