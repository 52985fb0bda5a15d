"""What a promotion would break is shown before it does, and somebody has to want it all the same."""

from __future__ import annotations

import sys

from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_service_pb2 import CheckPromotionResponse, ListPromotionsRequest
from modelregistry_client import Registry, RegistryError
from modelregistry_client.errors import ApiUsageDenied
from server.cli import terminal
from server.cli.output import fail, say, show_findings

# Promotions of one version into one branch, of which one may have come from the same command.
MAX_EARLIER = 20
UNCHECKED = "the token does not permit to check what the promotion would break: it lacks api:models-read"


def settle(registry: Registry, request: PromoteVersionRequest, consents: bool) -> None:
    """Return when the request may be sent; exit if the person does not want what it would break.

    What was shown is what may be replaced: the request then expects the head that it was compared with.
    """
    checked = _check(registry, request, consents)
    if checked is None or checked.HasField("repeated_version_rid") or _find_earlier(registry, request, checked):
        return
    show_findings(checked.findings, checked.error_count, checked.warning_count, sys.stderr)
    if not checked.error_count:
        return
    # Of what the server refuses anyway, it says so itself.
    if checked.would_succeed:
        errors = "1 error" if checked.error_count == 1 else f"{checked.error_count} errors"
        _require_consent(consents, f"the version is incompatible with the head of the branch ({errors})")
    if not request.HasField("expected_head_version_rid") and checked.HasField("head_version_rid"):
        request.expected_head_version_rid = checked.head_version_rid


def _require_consent(consents: bool, problem: str) -> None:
    if consents:
        return
    if not terminal.is_there():
        fail(f"{problem}; --yes promotes all the same")
    say(problem)
    if terminal.ask("promote all the same? [y/N]").lower() not in {"y", "yes"}:
        fail("nothing was promoted")


def _check(registry: Registry, request: PromoteVersionRequest, consents: bool) -> CheckPromotionResponse | None:
    """Return what the server says of the promotion; None if it cannot and is to promote all the same."""
    try:
        return registry.promotions.CheckPromotion(request)
    except ApiUsageDenied:
        if consents:
            say(UNCHECKED)
        _require_consent(consents, UNCHECKED)
    except RegistryError as error:
        if error.code().name != "UNIMPLEMENTED":
            raise
        _require_nothing_new(request)
    return None


def _require_nothing_new(request: PromoteVersionRequest) -> None:
    """Return if a server of an earlier release does all that the request asks for, and does not just overlook it."""
    for option in ("request_id", "expected_head_version_rid", "reason"):
        if request.HasField(option):
            flag = option.removesuffix("_version_rid").replace("_", "-")
            fail(f"--{flag}: the server is of an earlier release, which does not know it")


def _find_earlier(registry: Registry, request: PromoteVersionRequest, checked: CheckPromotionResponse) -> bool:
    """Whether this command was carried out before, with the same id and a head that `settle` made it expect.

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
