"""Commands for requests for promotion: made, reviewed, withdrawn and listed; those for changes of policies, too."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from google.protobuf.message import Message

from modelregistry.v1.promotion_request_pb2 import PromotionRequestState, ReviewVerdict
from modelregistry.v1.promotion_request_service_pb2 import (
    CreatePromotionRequestRequest,
    GetPromotionRequestRequest,
    ListPromotionRequestsRequest,
    ReviewPromotionRequestRequest,
    WithdrawPromotionRequestRequest,
)
from modelregistry_client import Registry
from server.cli.options import (
    Branch,
    ExpectedHead,
    PageSize,
    PageToken,
    Reason,
    RequestId,
    option,
)
from server.cli.promotion_commands import ExpectedRevision, Source, TargetModel

RequestRid = Annotated[str, typer.Argument(help="The RID of the request.")]
Verdict = Annotated[
    Literal["approve", "reject"],
    typer.Argument(
        help="approve counts for the head that the branch has now, or the revision of its policy; one reject ends the"
        " request."
    ),
]
Comment = Annotated[str | None, option("--comment", "Why, in your words.", metavar="TEXT")]
OfModel = Annotated[str | None, option("--model", "Only requests for this model.", metavar="RID")]
OfBranch = Annotated[str | None, option("--branch", "Only requests for branches of this name.", metavar="NAME")]
OfState = Annotated[
    Literal["open", "approved", "promoted", "rejected", "withdrawn", "expired"] | None,
    option("--state", "Only requests of this state."),
]
OfRequester = Annotated[
    str | None, option("--requested-by", "Only requests by this principal, like user:jane.", metavar="PRINCIPAL")
]
WaitingForMe = Annotated[
    bool, option("--waiting-for-me", "Only requests that are open, and that you could approve and have not yet.")
]


def request_promotion(
    registry: Registry,
    source: Source,
    target_model: TargetModel,
    branch: Branch = None,
    reason: Reason = None,
    request_id: RequestId = None,
    expected_head: ExpectedHead = None,
) -> Message:
    """Request that a version is promoted into a branch that wants approvals.

    [bold]modelregistry request-promotion ri.models.main.model-version.… ri.models.main.model.… --reason 2.0[/bold]
    """
    request = CreatePromotionRequestRequest(
        model_rid=target_model,
        source_model_version_rid=source,
        branch=branch,
        reason=reason,
        request_id=request_id,
        expected_head_version_rid=expected_head,
    )
    return registry.promotion_requests.CreatePromotionRequest(request)


def review(
    registry: Registry,
    request_rid: RequestRid,
    verdict: Verdict,
    comment: Comment = None,
    expected_head: ExpectedHead = None,
    expected_revision: ExpectedRevision = None,
    request_id: RequestId = None,
) -> Message:
    """Approve or reject a request, for promotion or for a change of a policy, as an approver whom the policy names.

    [bold]modelregistry review ri.models.main.promotion-request.… approve --comment "looks good"[/bold]
    """
    request = ReviewPromotionRequestRequest(
        promotion_request_rid=request_rid,
        verdict=ReviewVerdict.Value(f"REVIEW_VERDICT_{verdict.upper()}"),
        comment=comment,
        expected_head_version_rid=expected_head,
        expected_policy_revision=expected_revision,
        request_id=request_id,
    )
    return registry.promotion_requests.ReviewPromotionRequest(request)


def withdraw(registry: Registry, request_rid: RequestRid, request_id: RequestId = None) -> Message:
    """Withdraw a request that you made, or that is for a model or folder of yours.

    [bold]modelregistry withdraw ri.models.main.promotion-request.…[/bold]
    """
    request = WithdrawPromotionRequestRequest(promotion_request_rid=request_rid, request_id=request_id)
    return registry.promotion_requests.WithdrawPromotionRequest(request)


def get_request(registry: Registry, request_rid: RequestRid) -> Message:
    """Print a request, and what was said of it.

    [bold]modelregistry get-request ri.models.main.promotion-request.…[/bold]
    """
    request = GetPromotionRequestRequest(promotion_request_rid=request_rid)
    return registry.promotion_requests.GetPromotionRequest(request)


def requests(
    registry: Registry,
    model: OfModel = None,
    branch: OfBranch = None,
    state: OfState = None,
    requested_by: OfRequester = None,
    waiting_for_me: WaitingForMe = False,
    page_size: PageSize = 0,
    page_token: PageToken = None,
) -> Message:
    """List the requests that you may see, for promotion and for changes of policies, newest first.

    [bold]modelregistry requests --waiting-for-me --output table[/bold]
    """
    request = ListPromotionRequestsRequest(
        model_rid=model,
        branch=branch,
        state=PromotionRequestState.Value(f"PROMOTION_REQUEST_STATE_{(state or 'unspecified').upper()}"),
        requested_by=requested_by,
        waiting_for_me=waiting_for_me,
        page_size=page_size,
        page_token=page_token,
    )
    return registry.promotion_requests.ListPromotionRequests(request)
