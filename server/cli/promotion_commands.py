"""Commands that promote, check and roll back, and those that read what promotions have left."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated, Any, Literal

import typer
from google.protobuf.message import Message

from modelregistry.v1.compatibility_pb2 import CompatibilityMode
from modelregistry.v1.list_order_pb2 import LIST_ORDER_NEWEST_FIRST, LIST_ORDER_OLDEST_FIRST
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import GetBranchRequest, ListModelVersionsRequest, PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import AllowedSource, AllowedSources, ApprovalRule, Principals
from modelregistry.v1.promotion_request_pb2 import PolicyChange
from modelregistry.v1.promotion_request_service_pb2 import (
    CreatePolicyChangeRequestRequest,
    CreatePromotionRequestRequest,
)
from modelregistry.v1.promotion_service_pb2 import (
    BatchPromoteVersionsRequest,
    CheckPromotionResponse,
    GetBranchPolicyRequest,
    GetFolderBranchPolicyRequest,
    GetLineageRequest,
    GetLineageResponse,
    GetPromotionRequest,
    ListPromotionsRequest,
    LockBranchRequest,
    RollbackBranchRequest,
    SetBranchPolicyRequest,
    SetFolderBranchPolicyRequest,
    UnlockBranchRequest,
)
from modelregistry_client import Registry
from modelregistry_client.errors import ApiUsageDenied, ApprovalRequired
from server.cli.connection import read_request
from server.cli.lineage import DRAWINGS
from server.cli.options import (
    Branch,
    ExpectedHead,
    ModelRid,
    OldestFirst,
    Output,
    PageSize,
    PageToken,
    Reason,
    RequestId,
    RequiredReason,
    VersionRid,
    option,
)
from server.cli.output import ask, can_ask, fail, say, show, show_fields, show_findings, show_rows
from server.cli.times import duration_of, time_of
from server.codec.json_form import to_json
from server.core.rids import FOLDER, rid_type

Source = Annotated[str, typer.Argument(help="The RID of the version to promote.")]
TargetModel = Annotated[str, typer.Argument(help="The RID of the model to promote it into.")]
AskForApprovals = Annotated[
    bool, option("--request", "Where the branch wants approvals, request them in place of the promotion.")
]
AskForChange = Annotated[
    bool, option("--request", "Request the approvals of a change that weakens the policy, in place of making it.")
]
Yes = Annotated[bool, option("--yes", "Promote without asking what it would break.")]
ToNumber = Annotated[
    int | None, option("--to", "The number of the version to go back to; asked for at a terminal.", metavar="NUMBER")
]
Compatibility = Annotated[
    Literal["off", "warn", "enforce", "enforce-transitive"] | None,
    typer.Argument(
        help="off: nothing is compared; warn: findings are recorded; enforce: errors refuse a new head;"
        " enforce-transitive: also those beside the heads before."
    ),
]
PromotionOnly = Annotated[
    bool | None, option("--promotion-only/--no-promotion-only", "Whether heads come by promotion alone.")
]
Clear = Annotated[
    list[str] | None,
    option("--clear", "A field of the policy that is to hold no longer; can be given several times.", metavar="FIELD"),
]
PolicyOf = Annotated[str, typer.Argument(help="The RID of the model, or of the folder whose models it holds in.")]
AllowSource = Annotated[
    list[str] | None,
    option(
        "--allow-source",
        "A branch that versions may be promoted from, `master` if it is left out; can be given several times. `none`"
        " allows none.",
        metavar="RID[:BRANCH]",
    ),
]
MinTimeAsHead = Annotated[
    str | None,
    option(
        "--min-time-as-head", "For how long a version must have been a head there, like 90m or 1d12h.", metavar="TIME"
    ),
]
Promoter = Annotated[
    list[str] | None,
    option(
        "--promoter", "Who may promote, among those with the role; can be given several times.", metavar="PRINCIPAL"
    ),
]
Rollbacker = Annotated[
    list[str] | None,
    option(
        "--rollbacker", "Who may roll back, among those with the role; can be given several times.", metavar="PRINCIPAL"
    ),
]
RequiredApprovals = Annotated[
    int | None, option("--required-approvals", "How many approvals a promotion takes.", metavar="NUMBER")
]
Approver = Annotated[
    list[str] | None,
    option("--approver", "Who may approve; can be given several times.", metavar="PRINCIPAL"),
]
ApprovalsExpireAfter = Annotated[
    str | None,
    option(
        "--approvals-expire-after", "For how long a promotion can be reviewed and carried out, like 7d.", metavar="TIME"
    ),
]
PromoteWhenApproved = Annotated[
    bool, option("--promote-when-approved", "Let the last approval promote, as the one who asked for it.")
]
Override = Annotated[
    bool, option("--override", "As an owner, go back to what was rolled back from before; takes a reason.")
]
ExpectedRevision = Annotated[
    int | None,
    option("--expected-revision", "Refuse unless the policy has this revision now; 0: none is set.", metavar="NUMBER"),
]
BatchFile = Annotated[
    str,
    option(
        "--file",
        'JSON like {"promotions": [{"modelRid": …, "sourceModelVersionRid": …}]}; - reads it from a pipe.',
        metavar="FILE",
    ),
]


PromotionRid = Annotated[str, typer.Argument(help="The RID of the promotion.")]
OfModel = Annotated[str | None, option("--model", "Only promotions into this model.", metavar="RID")]
OfBranch = Annotated[str | None, option("--branch", "Only promotions into branches of this name.", metavar="NAME")]
OfSource = Annotated[str | None, option("--source-version", "Only promotions of this version.", metavar="RID")]
OfVersion = Annotated[str | None, option("--version", "Only the promotion that made this version.", metavar="RID")]
OfCreator = Annotated[
    str | None, option("--created-by", "Only promotions by this principal, like user:jane.", metavar="PRINCIPAL")
]
Since = Annotated[
    str | None,
    option("--since", "Only promotions at this time or later, RFC 3339 or a day in UTC: 2026-11-25.", metavar="TIME"),
]
LockEnd = Annotated[
    str | None, option("--expire-time", "When the lock ends by itself, RFC 3339 or a day in UTC.", metavar="TIME")
]
Until = Annotated[
    str | None, option("--until", "Only promotions before this time, in the forms of --since.", metavar="TIME")
]
Drawing = Annotated[
    Literal["tree", "dot", "mermaid", "json", "table"],
    option("--output", "tree for people (table means it too), dot for Graphviz, mermaid, json for programs."),
]

# In place of a source.
NO_SOURCE = "none"
# Each page walks the whole lineage, so they are as large as can be.
LINEAGE_PAGE = 1000
# Promotions of one version into one branch, of which one may have come from the same command.
MAX_EARLIER = 20
UNCHECKED = "the token does not permit to check what the promotion would break: it lacks api:models-read"
MAX_SHOWN = 20


def promote(
    registry: Registry,
    source: Source,
    target_model: TargetModel,
    branch: Branch = None,
    request_id: RequestId = None,
    expected_head: ExpectedHead = None,
    reason: Reason = None,
    yes: Yes = False,
    request_approvals: AskForApprovals = False,
) -> Message:
    """Copy a version into another model, as the new head of a branch.

    What that would break is shown first. If it breaks callers of the model, you are asked; without a terminal, nothing
    is promoted without --yes. Where the branch wants approvals, it is said who may give them, and they can be
    requested.

    [bold]modelregistry promote ri.models.main.model-version.… ri.models.main.model.…[/bold]
    """
    request = _promotion(source, target_model, branch, request_id, expected_head, reason)
    checked = _confirm(registry, request, yes)
    if checked is not None and _is_to_be_requested(checked, request_approvals):
        return registry.promotion_requests.CreatePromotionRequest(_request_for(request))
    return registry.models.PromoteVersion(request)


def check(
    registry: Registry,
    source: Source,
    target_model: TargetModel,
    branch: Branch = None,
    request_id: RequestId = None,
    expected_head: ExpectedHead = None,
    reason: Reason = None,
    output: Output = "json",
) -> None:
    """Say what promote would do with the same options, and change nothing.

    Exits with 0 if the promotion would succeed, with 1 if it would not.

    [bold]modelregistry check ri.models.main.model-version.… ri.models.main.model.… --output table[/bold]
    """
    request = _promotion(source, target_model, branch, request_id, expected_head, reason)
    checked = registry.promotions.CheckPromotion(request)
    if output == "json":
        show(checked)
    else:
        _show_check(checked)
    if not checked.would_succeed:
        raise typer.Exit(1)


def promote_batch(registry: Registry, file: BatchFile, request_id: RequestId = None) -> Message:
    """Promote up to 100 versions, all of them or none, without asking.

    [bold]modelregistry promote-batch --file promotions.json[/bold]
    """
    request = read_request(file, BatchPromoteVersionsRequest)
    if request_id is not None:
        request.request_id = request_id
    return registry.promotions.BatchPromoteVersions(request)


def rollback(
    registry: Registry,
    model_rid: ModelRid,
    branch: Branch = None,
    to: ToNumber = None,
    reason: Reason = None,
    request_id: RequestId = None,
    expected_head: ExpectedHead = None,
    override: Override = False,
) -> Message:
    """Make an earlier version of a branch its head again. At a terminal, you can choose it from a list.

    [bold]modelregistry rollback ri.models.main.model.… --to 3 --reason "4 is too slow"[/bold]
    """
    if to is None:
        to, shown_head = _choose_version(registry, model_rid, branch)
        expected_head = shown_head if expected_head is None else expected_head
        if request_id is not None:
            # What was chosen here is part of the request that the id stands for.
            say(f"to repeat this request: --to {to} --expected-head {expected_head} --request-id {request_id}")
    request = RollbackBranchRequest(
        model_rid=model_rid,
        branch=branch,
        to_version_number=to,
        reason=reason,
        request_id=request_id,
        expected_head_version_rid=expected_head,
        override=override or None,
    )
    return registry.promotions.RollbackBranch(request)


def set_policy(
    registry: Registry,
    resource_rid: PolicyOf,
    compatibility: Compatibility = None,
    branch: Branch = None,
    promotion_only: PromotionOnly = None,
    allow_source: AllowSource = None,
    min_time_as_head: MinTimeAsHead = None,
    promoter: Promoter = None,
    rollbacker: Rollbacker = None,
    required_approvals: RequiredApprovals = None,
    approver: Approver = None,
    approvals_expire_after: ApprovalsExpireAfter = None,
    promote_when_approved: PromoteWhenApproved = False,
    clear: Clear = None,
    expected_revision: ExpectedRevision = None,
    request_approvals: AskForChange = False,
    reason: Reason = None,
    request_id: RequestId = None,
) -> Message:
    """Set what holds for new heads of a branch, of one model or of all in a folder. What you leave out stays as it was.

    Where the policy wants approvals, what weakens it is requested first, with --request and perhaps --reason and
    --request-id; once that is approved, the same command without these sets it.

    [bold]modelregistry set-policy ri.models.main.model.… enforce --promotion-only[/bold]

    [bold]modelregistry set-policy ri.compass.main.folder.… --allow-source ri.models.main.model.…:staging[/bold]
    """
    approvals = ApprovalRule(
        required=required_approvals or 0,
        approvers=approver,
        expire_after=duration_of("--approvals-expire-after", approvals_expire_after),
        promote_when_approved=promote_when_approved,
    )
    mode = f"COMPATIBILITY_MODE_{(compatibility or 'unspecified').upper().replace('-', '_')}"
    rules: dict[str, Any] = {
        "branch": branch,
        "compatibility": CompatibilityMode.Value(mode),
        "promotion_only": promotion_only,
        "allowed_sources": AllowedSources(sources=_sources(allow_source)) if allow_source else None,
        "min_time_as_head": duration_of("--min-time-as-head", min_time_as_head),
        "promoters": Principals(principals=promoter) if promoter else None,
        "rollbackers": Principals(principals=rollbacker) if rollbacker else None,
        "approvals": approvals if approvals.ByteSize() else None,
        "clear_fields": clear,
        "expected_revision": expected_revision,
    }
    if rid_type(resource_rid) == FOLDER:
        change = PolicyChange(folder=SetFolderBranchPolicyRequest(folder_rid=resource_rid, **rules))
    else:
        change = PolicyChange(branch=SetBranchPolicyRequest(model_rid=resource_rid, **rules))
    if request_approvals:
        asked = CreatePolicyChangeRequestRequest(policy_change=change, reason=reason, request_id=request_id)
        return registry.promotion_requests.CreatePolicyChangeRequest(asked)
    if reason is not None or request_id is not None:
        fail("--reason and --request-id need --request")
    try:
        if change.HasField("folder"):
            policy = registry.promotions.SetFolderBranchPolicy(change.folder)
        else:
            policy = registry.promotions.SetBranchPolicy(change.branch)
    except ApprovalRequired as error:
        if error.promotion_request_rid:
            say(f"the request is {error.promotion_request_rid}")
        else:
            say("--request requests the approvals")
        raise
    for warning in policy.warnings:
        say(f"warning: {warning}")
    return policy


def lock(
    registry: Registry, model_rid: ModelRid, reason: RequiredReason, branch: Branch = None, expire_time: LockEnd = None
) -> Message:
    """Let a branch have no new head for now, but by rollback, with a reason.

    [bold]modelregistry lock ri.models.main.model.… --reason "incident 42"[/bold]
    """
    request = LockBranchRequest(
        model_rid=model_rid, branch=branch, reason=reason, expire_time=time_of("--expire-time", expire_time)
    )
    return registry.promotions.LockBranch(request)


def unlock(registry: Registry, model_rid: ModelRid, branch: Branch = None) -> Message:
    """Take the lock of a branch away.

    [bold]modelregistry unlock ri.models.main.model.…[/bold]
    """
    return registry.promotions.UnlockBranch(UnlockBranchRequest(model_rid=model_rid, branch=branch))


def get_policy(registry: Registry, resource_rid: PolicyOf, branch: Branch = None) -> Message:
    """Print what holds for new heads of a branch, of one model or of all in a folder.

    [bold]modelregistry get-policy ri.models.main.model.…[/bold]
    """
    if rid_type(resource_rid) == FOLDER:
        of_folder = GetFolderBranchPolicyRequest(folder_rid=resource_rid, branch=branch)
        return registry.promotions.GetFolderBranchPolicy(of_folder)
    return registry.promotions.GetBranchPolicy(GetBranchPolicyRequest(model_rid=resource_rid, branch=branch))


def get_promotion(registry: Registry, promotion_rid: PromotionRid) -> Message:
    """Print the record of a promotion.

    [bold]modelregistry get-promotion ri.models.main.promotion.…[/bold]
    """
    return registry.promotions.GetPromotion(GetPromotionRequest(promotion_rid=promotion_rid))


def list_promotions(
    registry: Registry,
    model: OfModel = None,
    branch: OfBranch = None,
    source_version: OfSource = None,
    version: OfVersion = None,
    created_by: OfCreator = None,
    since: Since = None,
    until: Until = None,
    oldest_first: OldestFirst = False,
    page_size: PageSize = 0,
    page_token: PageToken = None,
) -> Message:
    """List the promotions that you may see, newest first.

    [bold]modelregistry list-promotions --model ri.models.main.model.… --since 2026-11-25 --output table[/bold]

    With [bold]--oldest-first[/bold], a reader that goes on from the last page token misses none.
    """
    request = ListPromotionsRequest(
        model_rid=model,
        branch=branch,
        source_model_version_rid=source_version,
        model_version_rid=version,
        created_by=created_by,
        start_time=time_of("--since", since),
        end_time=time_of("--until", until),
        order=LIST_ORDER_OLDEST_FIRST if oldest_first else LIST_ORDER_NEWEST_FIRST,
        page_size=page_size,
        page_token=page_token,
    )
    return registry.promotions.ListPromotions(request)


def lineage(registry: Registry, model_version_rid: VersionRid, output: Drawing = "tree") -> None:
    """Draw what a version was made of, back to the root, and all that was made of it.

    A version stands below the one that it was promoted from: in the same column, or where that one branches.

    [bold]modelregistry lineage ri.models.main.model-version.…[/bold]

    [bold]modelregistry lineage ri.models.main.model-version.… --output dot | dot -Tsvg > lineage.svg[/bold]
    """
    pages = _lineage(registry, model_version_rid)
    first = next(pages)
    nodes = chain(first.nodes, (node for page in pages for node in page.nodes))
    for line in DRAWINGS[output](nodes, first.traced_node_id):
        print(line)


def _promotion(
    source: str,
    target_model: str,
    branch: str | None,
    request_id: str | None,
    expected_head: str | None,
    reason: str | None,
) -> PromoteVersionRequest:
    return PromoteVersionRequest(
        model_rid=target_model,
        source_model_version_rid=source,
        branch=branch,
        preview=True,
        request_id=request_id,
        expected_head_version_rid=expected_head,
        reason=reason,
    )


def _is_to_be_requested(checked: CheckPromotionResponse, wants: bool) -> bool:
    """Whether nothing but approvals is lacking, none were requested, and the person wants to request them.

    What is lacking is said in any case.
    """
    match [*checked.obstacles]:
        case [obstacle] if obstacle.error_name == "ApprovalRequired":
            say(obstacle.description)
        case _:
            return False
    if rid := obstacle.parameters["promotionRequestRid"]:
        say(f"the request is {rid}")
        return False
    if wants or not can_ask():
        if not wants:
            say("--request requests the approvals")
        return wants
    return ask("request the approvals? [y/N]").lower() in {"y", "yes"}


def _request_for(promotion: PromoteVersionRequest) -> CreatePromotionRequestRequest:
    request = CreatePromotionRequestRequest(
        model_rid=promotion.model_rid, source_model_version_rid=promotion.source_model_version_rid
    )
    for name in ("branch", "expected_head_version_rid", "reason", "request_id"):
        if promotion.HasField(name):
            setattr(request, name, getattr(promotion, name))
    return request


def _confirm(registry: Registry, request: PromoteVersionRequest, yes: bool) -> CheckPromotionResponse | None:
    """Return what was checked when the request may be sent; exit if the person does not want what it would break.

    What was shown is what may be replaced: the request then expects the head that it was compared with.
    """
    checked = _checked(registry, request, yes)
    if checked is None or checked.HasField("repeated_version_rid") or _find_earlier(registry, request, checked):
        return None
    show_findings(checked.findings, checked.error_count, checked.warning_count, sys.stderr)
    if not checked.error_count:
        return checked
    # Of what the server refuses anyway, it says so itself.
    if checked.would_succeed:
        errors = "1 error" if checked.error_count == 1 else f"{checked.error_count} errors"
        _require_yes(yes, f"the version is incompatible with the head of the branch ({errors})")
    if not request.HasField("expected_head_version_rid") and checked.HasField("head_version_rid"):
        request.expected_head_version_rid = checked.head_version_rid
    return checked


def _require_yes(yes: bool, problem: str) -> None:
    if yes:
        return
    if not can_ask():
        fail(f"{problem}; --yes promotes all the same")
    say(problem)
    if ask("promote all the same? [y/N]").lower() not in {"y", "yes"}:
        fail("nothing was promoted")


def _checked(registry: Registry, request: PromoteVersionRequest, yes: bool) -> CheckPromotionResponse | None:
    """Return what the server says of the promotion; None if it cannot and is to promote all the same."""
    try:
        return registry.promotions.CheckPromotion(request)
    except ApiUsageDenied:
        if yes:
            say(UNCHECKED)
        _require_yes(yes, UNCHECKED)
    return None


def _find_earlier(registry: Registry, request: PromoteVersionRequest, checked: CheckPromotionResponse) -> bool:
    """Whether this command was carried out before, with the same id and a head that `_confirm` made it expect.

    It is looked for among the records of such promotions. The request then expects the same head again, which makes it
    the same request.
    """
    used_before = any(obstacle.error_name == "RequestIdAlreadyUsed" for obstacle in checked.obstacles)
    if not used_before or request.HasField("expected_head_version_rid"):
        return False
    wanted = ListPromotionsRequest(
        model_rid=request.model_rid,
        branch=request.branch if request.HasField("branch") else None,
        source_model_version_rid=request.source_model_version_rid,
        page_size=MAX_EARLIER,
    )
    for promotion in registry.promotions.ListPromotions(wanted).promotions:
        if promotion.HasField("replaced_version_rid"):
            again = PromoteVersionRequest()
            again.CopyFrom(request)
            again.expected_head_version_rid = promotion.replaced_version_rid
            if registry.promotions.CheckPromotion(again).HasField("repeated_version_rid"):
                request.CopyFrom(again)
                return True
    return False


def _show_check(checked: CheckPromotionResponse) -> None:
    """Print what it would become, what stands in the way, and what it would break."""
    lists = {"obstacles", "findings"}
    show_fields({name: str(value) for name, value in to_json(checked).items() if name not in lists})
    if checked.obstacles:
        rows = [(each.error_name, each.description, dict(each.parameters)) for each in checked.obstacles]
        show_rows({"obstacle": name, "description": text, **parameters} for name, text, parameters in rows)
    show_findings(checked.findings, checked.error_count, checked.warning_count)


def _choose_version(registry: Registry, model_rid: str, branch: str | None) -> tuple[int, str]:
    """Ask to which version a branch is to go back; return its number, and the RID of the head that was shown."""
    if not can_ask():
        fail("--to: without a terminal, the number of the version to go back to must be given")
    versions, has_more = _newest(registry, model_rid, branch)
    if not versions:
        # It fails, and says whether there is no such branch.
        registry.models.GetBranch(GetBranchRequest(model_rid=model_rid, branch=branch))
        fail("the branch was made just now: try again")
    head = versions[0]
    if head.version_number == 1:
        fail(f"branch {head.branch} has no earlier version")
    show_rows((_row(version, version is head) for version in versions), sys.stderr)
    if has_more:
        say(f"these are the newest {len(versions)}; an older one can be given by its number, here or with --to")
    answer = ask("go back to which number?")
    if not answer:
        fail("nothing was changed")
    if not (answer.isascii() and answer.isdigit()):
        fail(f"{answer} is not the number of a version; nothing was changed")
    return int(answer), head.rid


def _newest(registry: Registry, model_rid: str, branch: str | None) -> tuple[list[ModelVersion], bool]:
    """Return the newest versions of a branch, and whether there are older ones."""
    request = ListModelVersionsRequest(model_rid=model_rid, branch=branch)
    versions: list[ModelVersion] = []
    while True:
        # A page of large versions can be shorter than asked for.
        request.page_size = MAX_SHOWN - len(versions)
        page = registry.models.ListModelVersions(request)
        versions.extend(page.model_versions)
        has_more = page.HasField("next_page_token")
        if not has_more or len(versions) >= MAX_SHOWN:
            return versions, has_more
        request.page_token = page.next_page_token


def _row(version: ModelVersion, is_head: bool) -> dict[str, str]:
    shown = to_json(version)
    source = shown.get("source", {})
    assert isinstance(source, dict)
    # The last RID is the nearest: that of the version, where there is that of its model too.
    rids = [value for key, value in source.items() if key.endswith("Rid")]
    return {
        "number": str(version.version_number),
        "createdTime": str(shown["createdTime"]),
        "createdBy": version.created_by,
        "source": " ".join([source.get("type", ""), *rids[-1:]]),
        "head": "head" if is_head else "",
    }


def _lineage(registry: Registry, model_version_rid: str) -> Iterator[GetLineageResponse]:
    request = GetLineageRequest(model_version_rid=model_version_rid, page_size=LINEAGE_PAGE)
    while True:
        page = registry.promotions.GetLineage(request)
        yield page
        if not page.HasField("next_page_token"):
            return
        request.page_token = page.next_page_token


def _sources(texts: Sequence[str]) -> Iterator[AllowedSource]:
    """Return the branches of `RID[:BRANCH]`; no RID has a colon."""
    for text in texts:
        if text != NO_SOURCE:
            model_rid, colon, branch = text.partition(":")
            yield AllowedSource(model_rid=model_rid, branch=branch if colon else None)
