"""AccessService: the grants that say who may do what."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from modelregistry.v1 import access_service_pb2_grpc
from modelregistry.v1.access_service_pb2 import (
    Grant,
    GrantRoleRequest,
    ListGrantsRequest,
    ListGrantsResponse,
    RevokeRoleRequest,
    RevokeRoleResponse,
)
from server.core.caller import Caller
from server.rules.grants import grant_role, list_grants, revoke_role
from server.storage.contract import Repository
from server.storage.paging import Paging


class AccessService(access_service_pb2_grpc.AccessServiceServicer):
    """Serves modelregistry.v1.AccessService; requests are validated, `caller` tells whose they are."""

    def __init__(self, repository: Repository, caller: Callable[[], Caller]):
        self._repository = repository
        self._caller = caller

    def GrantRole(self, request: GrantRoleRequest, context: grpc.ServicerContext) -> Grant:
        """Give a principal a role on a resource."""
        caller = self._caller()
        return self._repository.write(lambda tx: grant_role(tx, caller, request))

    def RevokeRole(self, request: RevokeRoleRequest, context: grpc.ServicerContext) -> RevokeRoleResponse:
        """Take a principal's role on a resource away."""
        caller = self._caller()
        self._repository.write(lambda tx: revoke_role(tx, caller, request))
        return RevokeRoleResponse()

    def ListGrants(self, request: ListGrantsRequest, context: grpc.ServicerContext) -> ListGrantsResponse:
        """Return a page of a resource's grants."""
        caller = self._caller()
        paging = Paging(str, "ListGrants", request.resource_rid)
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: list_grants(reader, caller, request.resource_rid, wanted))
        return ListGrantsResponse(grants=page.items, next_page_token=paging.next_token(page))
