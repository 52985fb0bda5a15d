"""PromotionRequestService: requests for promotion, made, reviewed, withdrawn and listed."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from modelregistry.v1 import promotion_request_service_pb2_grpc
from modelregistry.v1.promotion_request_pb2 import PromotionRequest
from modelregistry.v1.promotion_request_service_pb2 import (
    CreatePolicyChangeRequestRequest,
    CreatePromotionRequestRequest,
    GetPromotionRequestRequest,
    ListPromotionRequestsRequest,
    ListPromotionRequestsResponse,
    ReviewPromotionRequestRequest,
    WithdrawPromotionRequestRequest,
)
from server.core.branches import branch_of
from server.core.caller import Caller
from server.rules.idempotency import is_repeatable
from server.rules.promotion_requests import (
    create_policy_change_request,
    create_promotion_request,
    get_promotion_request,
    list_promotion_requests,
    review_promotion_request,
    wanted_by,
    withdraw_promotion_request,
)
from server.rules.verdicts import Runner, run_inline, write_with_verdicts
from server.storage.contract import Repository
from server.storage.paging import Paging


class PromotionRequestService(promotion_request_service_pb2_grpc.PromotionRequestServiceServicer):
    """Serves modelregistry.v1.PromotionRequestService; requests are validated, `caller` tells whose they are.

    What changes have to compare is compared by `compare`.
    """

    def __init__(self, repository: Repository, caller: Callable[[], Caller], compare: Runner = run_inline):
        self._repository = repository
        self._caller = caller
        self._compare = compare

    def CreatePromotionRequest(
        self, request: CreatePromotionRequestRequest, context: grpc.ServicerContext
    ) -> PromotionRequest:
        """Request that a version is promoted."""
        caller = self._caller()
        return write_with_verdicts(
            self._repository,
            lambda tx: create_promotion_request(tx, caller, request),
            self._compare,
            repeatable=is_repeatable(request),
            branch=(request.model_rid, branch_of(request)),
        )

    def CreatePolicyChangeRequest(
        self, request: CreatePolicyChangeRequestRequest, context: grpc.ServicerContext
    ) -> PromotionRequest:
        """Request that a policy is changed."""
        caller = self._caller()
        return self._repository.write(
            lambda tx: create_policy_change_request(tx, caller, request), repeatable=is_repeatable(request)
        )

    def ReviewPromotionRequest(
        self, request: ReviewPromotionRequestRequest, context: grpc.ServicerContext
    ) -> PromotionRequest:
        """Approve or reject a request."""
        caller = self._caller()
        return write_with_verdicts(
            self._repository,
            lambda tx: review_promotion_request(tx, caller, request),
            self._compare,
            repeatable=is_repeatable(request),
        )

    def WithdrawPromotionRequest(
        self, request: WithdrawPromotionRequestRequest, context: grpc.ServicerContext
    ) -> PromotionRequest:
        """Withdraw a request."""
        caller = self._caller()
        return self._repository.write(
            lambda tx: withdraw_promotion_request(tx, caller, request), repeatable=is_repeatable(request)
        )

    def GetPromotionRequest(
        self, request: GetPromotionRequestRequest, context: grpc.ServicerContext
    ) -> PromotionRequest:
        """Return a request."""
        caller = self._caller()
        return self._repository.read(lambda reader: get_promotion_request(reader, caller, request))

    def ListPromotionRequests(
        self, request: ListPromotionRequestsRequest, context: grpc.ServicerContext
    ) -> ListPromotionRequestsResponse:
        """Return a page of requests."""
        caller, wanted = self._caller(), wanted_by(request)
        paging = Paging(str, "ListPromotionRequests", *wanted.stored, wanted.state, wanted.waiting_for_me)
        page = paging.page_request(request.page_size, request.page_token)
        found = self._repository.read(lambda reader: list_promotion_requests(reader, caller, wanted, page))
        return ListPromotionRequestsResponse(promotion_requests=found.items, next_page_token=paging.next_token(found))
