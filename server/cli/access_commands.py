"""Commands that call AccessService."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from google.protobuf.message import Message

from modelregistry.v1.access_service_pb2 import GrantRoleRequest, ListGrantsRequest, RevokeRoleRequest, Role
from modelregistry_client import Registry
from server.cli.options import PageSize, PageToken

Resource = Annotated[str, typer.Argument(help="The RID of a model or folder.")]
Principal = Annotated[str, typer.Argument(help="user:NAME or group:NAME.")]
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
