"""AccessService: who may do what, and who may do nothing."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from modelregistry.v1 import access_service_pb2_grpc
from modelregistry.v1.access_service_pb2 import (
    DisabledPrincipal,
    DisablePrincipalRequest,
    EnablePrincipalRequest,
    EnablePrincipalResponse,
    FolderPolicy,
    GetFolderPolicyRequest,
    Grant,
    GrantRoleRequest,
    ListDisabledPrincipalsRequest,
    ListDisabledPrincipalsResponse,
    ListGrantChangesRequest,
    ListGrantChangesResponse,
    ListGrantsRequest,
    ListGrantsResponse,
    RevokeRoleRequest,
    RevokeRoleResponse,
    SetFolderPolicyRequest,
    TransferOwnershipRequest,
)
from server.auth.disabled import DisabledPrincipals
from server.core.caller import Caller
from server.rules.administration import (
    disable_principal,
    enable_principal,
    list_disabled_principals,
    transfer_ownership,
)
from server.rules.folder_policies import get_folder_policy, set_folder_policy
from server.rules.grants import grant_role, list_grant_changes, list_grants, revoke_role
from server.storage.contract import Repository
from server.storage.paging import Paging


class AccessService(access_service_pb2_grpc.AccessServiceServicer):
    """Serves modelregistry.v1.AccessService; requests are validated, `caller` tells whose they are.

    `disabled` is told at once of the principals that are disabled and enabled here.
    """

    def __init__(self, repository: Repository, caller: Callable[[], Caller], disabled: DisabledPrincipals):
        self._repository = repository
        self._caller = caller
        self._disabled = disabled

    def GrantRole(self, request: GrantRoleRequest, context: grpc.ServicerContext) -> Grant:
        """Give a principal a role on a resource."""
        caller = self._caller()
        return self._repository.write(lambda tx: grant_role(tx, caller, request), settles=True)

    def RevokeRole(self, request: RevokeRoleRequest, context: grpc.ServicerContext) -> RevokeRoleResponse:
        """Take a principal's role on a resource away."""
        caller = self._caller()
        self._repository.write(lambda tx: revoke_role(tx, caller, request), may_use_reserve=True, settles=True)
        return RevokeRoleResponse()

    def ListGrants(self, request: ListGrantsRequest, context: grpc.ServicerContext) -> ListGrantsResponse:
        """Return a page of a resource's grants."""
        caller = self._caller()
        paging = Paging(str, "ListGrants", request.resource_rid)
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: list_grants(reader, caller, request.resource_rid, wanted))
        return ListGrantsResponse(grants=page.items, next_page_token=paging.next_token(page))

    def ListGrantChanges(
        self, request: ListGrantChangesRequest, context: grpc.ServicerContext
    ) -> ListGrantChangesResponse:
        """Return a page of the changes of a resource's grants."""
        caller = self._caller()
        paging = Paging(str, "ListGrantChanges", request.resource_rid)
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: list_grant_changes(reader, caller, request.resource_rid, wanted))
        return ListGrantChangesResponse(changes=page.items, next_page_token=paging.next_token(page))

    def SetFolderPolicy(self, request: SetFolderPolicyRequest, context: grpc.ServicerContext) -> FolderPolicy:
        """Say who owns the models that are created in a folder."""
        caller = self._caller()
        return self._repository.write(lambda tx: set_folder_policy(tx, caller, request))

    def GetFolderPolicy(self, request: GetFolderPolicyRequest, context: grpc.ServicerContext) -> FolderPolicy:
        """Return who owns the models that are created in a folder."""
        caller = self._caller()
        return self._repository.read(lambda reader: get_folder_policy(reader, caller, request))

    def TransferOwnership(self, request: TransferOwnershipRequest, context: grpc.ServicerContext) -> Grant:
        """Make a principal the one owner of a resource."""
        caller = self._caller()
        return self._repository.write(lambda tx: transfer_ownership(tx, caller, request), settles=True)

    def DisablePrincipal(self, request: DisablePrincipalRequest, context: grpc.ServicerContext) -> DisabledPrincipal:
        """Serve a user no more, or let a group give its members nothing."""
        caller = self._caller()
        disabled = self._repository.write(lambda tx: disable_principal(tx, caller, request), may_use_reserve=True)
        self._disabled.add(request.principal)
        self._repository.settle()
        return disabled

    def EnablePrincipal(
        self, request: EnablePrincipalRequest, context: grpc.ServicerContext
    ) -> EnablePrincipalResponse:
        """Serve a user again."""
        caller = self._caller()
        self._repository.write(lambda tx: enable_principal(tx, caller, request))
        self._disabled.remove(request.principal)
        return EnablePrincipalResponse()

    def ListDisabledPrincipals(
        self, request: ListDisabledPrincipalsRequest, context: grpc.ServicerContext
    ) -> ListDisabledPrincipalsResponse:
        """Return a page of the principals that are disabled."""
        caller = self._caller()
        paging = Paging(str, "ListDisabledPrincipals")
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: list_disabled_principals(reader, caller, wanted))
        return ListDisabledPrincipalsResponse(disabled_principals=page.items, next_page_token=paging.next_token(page))
