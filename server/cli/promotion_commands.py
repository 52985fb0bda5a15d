"""Commands that promote, check promotions and roll them back, and those for the policies of branches."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from google.protobuf.message import Message

from modelregistry.v1.compatibility_pb2 import CompatibilityMode
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_service_pb2 import (
    BatchPromoteVersionsRequest,
    CheckPromotionResponse,
    GetBranchPolicyRequest,
    RollbackBranchRequest,
    SetBranchPolicyRequest,
)
from modelregistry_client import Registry
from server.cli.connection import client_command
from server.cli.consent import settle
from server.cli.earlier_heads import choose
from server.cli.options import (
    Branch,
    ExpectedHead,
    ModelRid,
    Output,
    Reason,
    RequestId,
    option,
)
from server.cli.output import say, show, show_fields, show_findings, show_rows
from server.cli.request_files import read_request
from server.codec.json_form import to_json

Source = Annotated[str, typer.Argument(help="The RID of the version to promote.")]
TargetModel = Annotated[str, typer.Argument(help="The RID of the model to promote it into.")]
Yes = Annotated[bool, option("--yes", "Promote without asking what it would break.")]
ToNumber = Annotated[
    int | None, option("--to", "The number of the version to go back to; asked for at a terminal.", metavar="NUMBER")
]
Compatibility = Annotated[
    Literal["off", "warn", "enforce"],
    typer.Argument(help="off: nothing is compared; warn: findings are recorded; enforce: errors refuse a promotion."),
]
BatchFile = Annotated[
    str,
    option(
        "--file",
        'JSON like {"promotions": [{"modelRid": …, "sourceModelVersionRid": …}]}; - reads it from a pipe.',
        metavar="FILE",
    ),
]


def promote(
    registry: Registry,
    source: Source,
    target_model: TargetModel,
    branch: Branch = None,
    request_id: RequestId = None,
    expected_head: ExpectedHead = None,
    reason: Reason = None,
    yes: Yes = False,
) -> Message:
    """Copy a version into another model, as the new head of a branch.

    What that would break is shown first. If it breaks somebody, you are asked; where nobody can be asked, nothing is
    promoted without --yes.

    [bold]modelregistry promote ri.models.main.model-version.… ri.models.main.model.…[/bold]
    """
    request = _promotion(source, target_model, branch, request_id, expected_head, reason)
    settle(registry, request, yes)
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
) -> Message:
    """Make an earlier version of a branch its head again. At a terminal, you can choose it from a list.

    [bold]modelregistry rollback ri.models.main.model.… --to 3 --reason "4 is too slow"[/bold]
    """
    if to is None:
        to, shown_head = choose(registry, model_rid, branch)
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
    )
    return registry.promotions.RollbackBranch(request)


def set_policy(registry: Registry, model_rid: ModelRid, compatibility: Compatibility, branch: Branch = None) -> Message:
    """Set what a branch does about findings of compatibility.

    [bold]modelregistry set-policy ri.models.main.model.… enforce[/bold]
    """
    mode = CompatibilityMode.Value(f"COMPATIBILITY_MODE_{compatibility.upper()}")
    request = SetBranchPolicyRequest(model_rid=model_rid, branch=branch, compatibility=mode)
    return registry.promotions.SetBranchPolicy(request)


def get_policy(registry: Registry, model_rid: ModelRid, branch: Branch = None) -> Message:
    """Print what a branch does about findings of compatibility.

    [bold]modelregistry get-policy ri.models.main.model.…[/bold]
    """
    request = GetBranchPolicyRequest(model_rid=model_rid, branch=branch)
    return registry.promotions.GetBranchPolicy(request)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for run in (
        promote,
        check,
        promote_batch,
        rollback,
        set_policy,
        get_policy,
    ):
        app.command(run.__name__.replace("_", "-"))(client_command(run))


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


def _show_check(checked: CheckPromotionResponse) -> None:
    """Print what it would become, what stands in the way, and what it would break."""
    lists = {"obstacles", "findings"}
    show_fields({name: str(value) for name, value in to_json(checked).items() if name not in lists})
    if checked.obstacles:
        rows = [(each.error_name, each.description, dict(each.parameters)) for each in checked.obstacles]
        show_rows({"obstacle": name, "description": text, **parameters} for name, text, parameters in rows)
    show_findings(checked.findings, checked.error_count, checked.warning_count)
