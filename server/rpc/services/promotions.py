"""PromotionService: promotions checked before, recorded, reversed and traced."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from modelregistry.v1 import promotion_service_pb2_grpc
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import BranchPolicy, Promotion
from modelregistry.v1.promotion_service_pb2 import (
    BatchPromoteVersionsRequest,
    BatchPromoteVersionsResponse,
    CheckPromotionResponse,
    GetBranchPolicyRequest,
    GetFolderBranchPolicyRequest,
    GetLineageRequest,
    GetLineageResponse,
    GetPromotionRequest,
    ListBranchPolicyRevisionsRequest,
    ListBranchPolicyRevisionsResponse,
    ListFolderBranchPolicyRevisionsRequest,
    ListFolderBranchPolicyRevisionsResponse,
    ListPromotionsRequest,
    ListPromotionsResponse,
    LockBranchRequest,
    RollbackBranchRequest,
    SetBranchPolicyRequest,
    SetFolderBranchPolicyRequest,
    UnlockBranchRequest,
)
from server.core.branches import branch_of
from server.core.caller import Caller
from server.rules.branch_policies import (
    get_branch_policy,
    list_branch_policies,
    lock_branch,
    set_branch_policy,
    unlock_branch,
)
from server.rules.events import is_oldest_first
from server.rules.idempotency import is_repeatable
from server.rules.promotion import batch_promote_versions, check_promotion, rollback_branch
from server.rules.promotion_records import filter_of, get_promotion, list_promotions
from server.rules.verdicts import Runner, run_inline, write_with_verdicts
from server.storage.contract import Repository
from server.storage.paging import Paging


class PromotionService(promotion_service_pb2_grpc.PromotionServiceServicer):
    """Serves modelregistry.v1.PromotionService; requests are validated, `caller` tells whose they are.

    What changes have to compare is compared by `compare`, and CheckPromotion compares in the thread that it has.
    """

    def __init__(self, repository: Repository, caller: Callable[[], Caller], compare: Runner = run_inline):
        self._repository = repository
        self._caller = caller
        self._compare = compare

    def CheckPromotion(self, request: PromoteVersionRequest, context: grpc.ServicerContext) -> CheckPromotionResponse:
        """Say what PromoteVersion would do."""
        caller = self._caller()
        return check_promotion(self._repository, caller, request)

    def BatchPromoteVersions(
        self, request: BatchPromoteVersionsRequest, context: grpc.ServicerContext
    ) -> BatchPromoteVersionsResponse:
        """Promote many versions, or none."""
        caller = self._caller()
        return write_with_verdicts(
            self._repository,
            lambda tx: batch_promote_versions(tx, caller, request),
            self._compare,
            repeatable=is_repeatable(request),
        )

    def RollbackBranch(self, request: RollbackBranchRequest, context: grpc.ServicerContext) -> ModelVersion:
        """Make an earlier version of a branch its head again."""
        caller = self._caller()
        return write_with_verdicts(
            self._repository,
            lambda tx: rollback_branch(tx, caller, request),
            self._compare,
            repeatable=is_repeatable(request),
            branch=(request.model_rid, branch_of(request)),
            may_use_reserve=True,
        )

    def GetPromotion(self, request: GetPromotionRequest, context: grpc.ServicerContext) -> Promotion:
        """Return the record of a promotion."""
        caller = self._caller()
        return self._repository.read(lambda reader: get_promotion(reader, caller, request))

    def ListPromotions(self, request: ListPromotionsRequest, context: grpc.ServicerContext) -> ListPromotionsResponse:
        """Return a page of promotions."""
        caller, filters, in_order = self._caller(), filter_of(request), is_oldest_first(request)
        # A token of one order is none of the other.
        paging = Paging(str, "ListPromotions, oldest first" if in_order else "ListPromotions", *filters)
        wanted = paging.page_request(request.page_size, request.page_token)
        settled = self._repository.settled_promotion() if in_order else None
        page = self._repository.read(lambda reader: list_promotions(reader, caller, filters, wanted, settled))
        return ListPromotionsResponse(promotions=page.items, next_page_token=paging.next_token(page))

    def GetLineage(self, request: GetLineageRequest, context: grpc.ServicerContext) -> GetLineageResponse:
        """Return a page of a version's lineage."""
        caller = self._caller()
        paging = Paging(str, "GetLineage", request.model_version_rid)
        wanted = paging.page_request(request.page_size, request.page_token)
        lineage = self._repository.read(lambda reader: reader.get_lineage(request.model_version_rid, caller, wanted))
        return GetLineageResponse(
            nodes=lineage.page.items,
            traced_node_id=lineage.traced_node_id,
            next_page_token=paging.next_token(lineage.page),
        )

    def SetBranchPolicy(self, request: SetBranchPolicyRequest, context: grpc.ServicerContext) -> BranchPolicy:
        """Set what holds for new heads of a branch."""
        caller = self._caller()
        return self._repository.write(lambda tx: set_branch_policy(tx, caller, request), settles=True)

    def GetBranchPolicy(self, request: GetBranchPolicyRequest, context: grpc.ServicerContext) -> BranchPolicy:
        """Return what holds for new heads of a branch."""
        caller = self._caller()
        return self._repository.read(lambda reader: get_branch_policy(reader, caller, request))

    def ListBranchPolicyRevisions(
        self, request: ListBranchPolicyRevisionsRequest, context: grpc.ServicerContext
    ) -> ListBranchPolicyRevisionsResponse:
        """Return a page of the policies of a branch that were set."""
        caller = self._caller()
        paging = Paging(int, "ListBranchPolicyRevisions", request.model_rid, branch_of(request))
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: list_branch_policies(reader, caller, request, wanted))
        return ListBranchPolicyRevisionsResponse(policies=page.items, next_page_token=paging.next_token(page))

    def LockBranch(self, request: LockBranchRequest, context: grpc.ServicerContext) -> BranchPolicy:
        """Let a branch have no new head for now."""
        caller = self._caller()
        return self._repository.write(lambda tx: lock_branch(tx, caller, request), settles=True)

    def UnlockBranch(self, request: UnlockBranchRequest, context: grpc.ServicerContext) -> BranchPolicy:
        """Take the lock of a branch away."""
        caller = self._caller()
        return self._repository.write(lambda tx: unlock_branch(tx, caller, request), settles=True)

    def SetFolderBranchPolicy(
        self, request: SetFolderBranchPolicyRequest, context: grpc.ServicerContext
    ) -> BranchPolicy:
        """Set what holds for new heads of the branches of a name in a folder."""
        caller = self._caller()
        return self._repository.write(lambda tx: set_branch_policy(tx, caller, request), settles=True)

    def GetFolderBranchPolicy(
        self, request: GetFolderBranchPolicyRequest, context: grpc.ServicerContext
    ) -> BranchPolicy:
        """Return what a folder says of new heads of the branches of a name."""
        caller = self._caller()
        return self._repository.read(lambda reader: get_branch_policy(reader, caller, request))

    def ListFolderBranchPolicyRevisions(
        self, request: ListFolderBranchPolicyRevisionsRequest, context: grpc.ServicerContext
    ) -> ListFolderBranchPolicyRevisionsResponse:
        """Return a page of the policies of a folder that were set."""
        caller = self._caller()
        paging = Paging(int, "ListFolderBranchPolicyRevisions", request.folder_rid, branch_of(request))
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: list_branch_policies(reader, caller, request, wanted))
        return ListFolderBranchPolicyRevisionsResponse(policies=page.items, next_page_token=paging.next_token(page))
