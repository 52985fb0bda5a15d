"""Each unary RPC as it is called in a filled registry; lists at their first page and at their last."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from bench.growth.fill import ASKED, BRANCH, DEPTH, NEW_FOLDER, PROTECTED, Filled
from bench.stock import CALLER, FOLDER, api_of
from modelregistry.v1.access_service_pb2 import NEW_MODEL_OWNER_CREATOR, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_WARN
from modelregistry.v1.event_service_pb2 import ListEventsRequest
from modelregistry.v1.list_order_pb2 import LIST_ORDER_OLDEST_FIRST
from modelregistry.v1.promotion_pb2 import ApprovalRule
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_STATE_EXPIRED,
    REVIEW_VERDICT_APPROVE,
    PolicyChange,
)
from modelregistry.v1.promotion_request_service_pb2 import ListPromotionRequestsRequest
from modelregistry.v1.promotion_service_pb2 import ListPromotionsRequest, SetFolderBranchPolicyRequest
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_VERSION
from modelregistry.v1.subscription_pb2 import DELIVERY_STATE_DEAD
from server.core.event_types import NAMES, EventType
from server.rpc.services.events import paging_of as events_paging
from server.rules.promotion_records import filter_of
from server.rules.promotion_requests import wanted_by
from server.storage.paging import Paging
from server.storage.sql.cursors import Cursors, LineageCursors, LineagePlace, PromotionCursors
from tests.rpc.harness import User

# The smallest registry has fewer models and branches than fill a usual page.
FEW = 5
HOOK = "https://hooks.example.com/"


@dataclass(frozen=True)
class Call:
    """One line of the table: an RPC, and the fields of its request, which may differ from call to call.

    `adds` is how many versions it adds to the deep branch. `goal` is whether growth should leave it alone: what asks
    for all that was ever made of a version cannot but grow. `is_admins` is whether only an administrator may call.
    Where there may not be many of what it makes, or are too few of what it takes, `undo` takes it back by its answer.
    """

    name: str
    rpc: str
    fields: Callable[[Filled, random.Random], dict[str, Any]]
    adds: int = 0
    is_last_page: bool = False
    goal: bool = True
    is_admins: bool = False
    undo: Callable[[User, Filled, Any], None] | None = None


def _some_model(filled: Filled, chance: random.Random) -> str:
    return chance.choice(filled.models)


def _some_version(filled: Filled, chance: random.Random) -> dict[str, Any]:
    pair = chance.randrange(len(filled.registered))
    return {"model_rid": filled.models[2 * pair], "model_version_rid": filled.registered[pair]}


def _some_promotion(filled: Filled, chance: random.Random) -> dict[str, Any]:
    # Not of the last one, which is yanked.
    pair = chance.randrange(len(filled.registered) - 1)
    return {"model_rid": filled.models[2 * pair + 1], "source_model_version_rid": filled.registered[pair]}


def _some_preview(filled: Filled, chance: random.Random) -> dict[str, Any]:
    return {**_some_promotion(filled, chance), "preview": True}


def _some_promotions(filled: Filled, chance: random.Random) -> dict[str, Any]:
    return {"promotions": [_some_promotion(filled, chance) for _ in range(FEW)]}


def _deep_promotion(filled: Filled, _: random.Random) -> dict[str, Any]:
    return {"model_rid": filled.deep_model, "source_model_version_rid": filled.hub, "preview": True}


def _held_promotion(filled: Filled, _: random.Random) -> dict[str, Any]:
    return {"model_rid": filled.held_model, "source_model_version_rid": filled.hub, "preview": True}


def _protected_promotion(filled: Filled, _: random.Random) -> dict[str, Any]:
    place = {"model_rid": filled.deep_model, "branch": PROTECTED}
    return {**place, "source_model_version_rid": filled.promoted[0], "preview": True}


def _protected_batch(filled: Filled, _: random.Random) -> dict[str, Any]:
    place = {"model_rid": filled.deep_model, "branch": PROTECTED}
    return {"promotions": [{**place, "source_model_version_rid": filled.promoted[0]}]}


def _protected_rollback(filled: Filled, _: random.Random) -> dict[str, Any]:
    return {"model_rid": filled.deep_model, "branch": PROTECTED, "to_version_number": 1}


def _rollback(filled: Filled, chance: random.Random) -> dict[str, Any]:
    return {"model_rid": filled.deep_model, "to_version_number": chance.randrange(2, filled.size + 1)}


def _some_rollbacks(filled: Filled, chance: random.Random) -> dict[str, Any]:
    # The odd ones were promoted into as often as that. What other calls have yanked is passed.
    models = chance.sample(filled.models[1::2], FEW)
    passed = {"reason": "a reason", "override": True}
    return {
        "rollbacks": [{"model_rid": rid, "to_version_number": chance.randrange(1, DEPTH)} | passed for rid in models]
    }


def _yank(filled: Filled, _: random.Random) -> dict[str, Any]:
    last = len(filled.registered) - 1
    of_last = {"model_rid": filled.models[2 * last], "model_version_rid": filled.registered[last]}
    return {**of_last, "scope": YANK_SCOPE_VERSION, "reason": "a reason"}


def _last_models(filled: Filled, _: random.Random) -> dict[str, Any]:
    token = Paging(str, "ListModels", FOLDER).token(filled.all_models[-FEW - 1])
    return {"parent_folder_rid": FOLDER, "page_size": FEW, "page_token": token}


def _last_branches(filled: Filled, _: random.Random) -> dict[str, Any]:
    last = f"branch-{filled.branches - FEW - 1:07}"
    token = Paging(str, "ListBranches", filled.wide_model).token(last)
    return {"model_rid": filled.wide_model, "page_size": FEW, "page_token": token}


def _last_versions(filled: Filled, _: random.Random) -> dict[str, Any]:
    token = Paging(int, "ListModelVersions", filled.deep_model, BRANCH).token(DEPTH + 1)
    return {"model_rid": filled.deep_model, "page_token": token}


def _last_promotions(filled: Filled, **wanted: Any) -> dict[str, Any]:
    filters = filter_of(ListPromotionsRequest(**wanted))
    deep = filters.model_rid is not None or filters.source_rid is not None
    position = filled.before_last_deep_promotions if deep else filled.before_last_promotions
    token = Paging(str, "ListPromotions", *filters).token(Cursors(filled.secret).position(*position))
    return {**wanted, "page_token": token}


def _newest_in_order(filled: Filled, **wanted: Any) -> dict[str, Any]:
    filters = filter_of(ListPromotionsRequest(**wanted))
    position = PromotionCursors(filled.secret).cursor(*filled.before_newest_promotions)
    token = Paging(str, "ListPromotions, oldest first", *filters).token(position)
    return {**wanted, "order": LIST_ORDER_OLDEST_FIRST, "page_token": token}


def _newest_events(filled: Filled, _: random.Random) -> dict[str, Any]:
    wanted = {"model_rid": filled.deep_model, "order": LIST_ORDER_OLDEST_FIRST}
    # Those of grants come first, on each model and on two folders.
    key = len(filled.models) + 2 + filled.newest_deep - DEPTH
    paging = events_paging(ListEventsRequest(**wanted))
    return {**wanted, "page_token": paging.token(Cursors(filled.secret).position(0, key))}


def _asked(filled: Filled, chance: random.Random) -> dict[str, Any]:
    source = chance.choice(filled.registered[:-1])
    branch = filled.asked_once.pop()
    return {"model_rid": _some_model(filled, chance), "source_model_version_rid": source, "branch": branch}


def _wanted_change(*_: Any) -> dict[str, Any]:
    rule = ApprovalRule(required=1, approvers=[f"user:{uuid.uuid4()}"])
    change = SetFolderBranchPolicyRequest(folder_rid=FOLDER, branch=ASKED, approvals=rule)
    return {"policy_change": PolicyChange(folder=change)}


def _last_requests(filled: Filled, _: random.Random) -> dict[str, Any]:
    wanted = wanted_by(ListPromotionRequestsRequest())
    paging = Paging(str, "ListPromotionRequests", *wanted.stored, wanted.state, wanted.waiting_for_me)
    return {"page_token": paging.token(Cursors(filled.secret).position(0, filled.before_last_request))}


def _last_of_lineage(filled: Filled, rid: str, behind: tuple[LineagePlace, str]) -> dict[str, Any]:
    position = LineageCursors(filled.secret, rid).position(*behind)
    return {"model_version_rid": rid, "page_token": Paging(str, "GetLineage", rid).token(position)}


def _listings() -> list[Call]:
    """ListPromotions by each of its filters, first page and last, in each order."""
    ways: dict[str, Callable[[Filled], dict[str, str]]] = {
        "all": lambda _: {},
        "into the deep branch": lambda filled: {"model_rid": filled.deep_model},
        "of one version": lambda filled: {"source_model_version_rid": filled.hub},
        "by one caller": lambda _: {"created_by": f"user:{CALLER}"},
    }
    calls = []
    for name, wanted in ways.items():
        first = lambda filled, _, wanted=wanted: dict(wanted(filled))  # noqa: E731
        last = lambda filled, _, wanted=wanted: _last_promotions(filled, **wanted(filled))  # noqa: E731
        calls.append(Call(f"ListPromotions, {name}, first page", "ListPromotions", first))
        calls.append(Call(f"ListPromotions, {name}, last page", "ListPromotions", last, is_last_page=True))
        if name != "of one version":  # Of which there are none among the oldest.
            oldest = lambda filled, _, wanted=wanted: {**wanted(filled), "order": LIST_ORDER_OLDEST_FIRST}  # noqa: E731
            calls.append(Call(f"ListPromotions, {name}, oldest first, first page", "ListPromotions", oldest))
        newest = lambda filled, _, wanted=wanted: _newest_in_order(filled, **wanted(filled))  # noqa: E731
        # Each page has a token behind it there, and calls that promote meanwhile make others the last.
        calls.append(Call(f"ListPromotions, {name}, oldest first, going on near the end", "ListPromotions", newest))
    return calls


def _now() -> Timestamp:
    now = Timestamp()
    now.FromMilliseconds(int(time.time() * 1000))
    return now


CALLS = (
    Call("GetModel", "GetModel", lambda f, c: {"model_rid": _some_model(f, c)}),
    Call("GetModelVersion", "GetModelVersion", _some_version),
    Call("GetBranch", "GetBranch", lambda f, c: {"model_rid": _some_promotion(f, c)["model_rid"]}),
    Call("GetBranch, deep", "GetBranch", lambda f, _: {"model_rid": f.deep_model}),
    Call("ListModels, first page", "ListModels", lambda *_: {"parent_folder_rid": FOLDER, "page_size": FEW}),
    Call("ListModels, last page", "ListModels", _last_models, is_last_page=True),
    Call("ListModels, all folders", "ListModels", lambda *_: {"page_size": FEW}),
    Call("ListBranches, first page", "ListBranches", lambda f, _: {"model_rid": f.wide_model, "page_size": FEW}),
    Call("ListBranches, last page", "ListBranches", _last_branches, is_last_page=True),
    Call("ListModelVersions", "ListModelVersions", lambda f, c: {"model_rid": _some_model(f, c)}),
    Call("ListModelVersions, deep, first page", "ListModelVersions", lambda f, _: {"model_rid": f.deep_model}),
    Call("ListModelVersions, deep, last page", "ListModelVersions", _last_versions, is_last_page=True),
    Call("GetPromotion", "GetPromotion", lambda f, c: {"promotion_rid": c.choice(f.promotions)}),
    *_listings(),
    Call("GetLineage", "GetLineage", lambda f, c: {"model_version_rid": c.choice(f.promoted)}),
    Call("GetLineage of the version promoted N times, first page", "GetLineage",
         lambda f, _: {"model_version_rid": f.hub}),
    Call("GetLineage of the version promoted N times, near the end", "GetLineage",
         lambda f, _: _last_of_lineage(f, f.hub, f.before_last_of_hub)),
    Call("GetLineage of a chain, first page", "GetLineage", lambda f, _: {"model_version_rid": f.chain}),
    Call("GetLineage of a chain, last page", "GetLineage",
         lambda f, _: _last_of_lineage(f, f.chain, f.before_last_of_chain), is_last_page=True),
    Call("GetLineage of rollbacks, first page", "GetLineage", lambda f, _: {"model_version_rid": f.rolled_back}),
    Call("GetLineage of rollbacks, last page", "GetLineage",
         lambda f, _: _last_of_lineage(f, f.rolled_back, f.before_last_rollbacks), is_last_page=True),
    Call("CheckPromotion", "CheckPromotion", _some_preview),
    Call("CheckPromotion, deep", "CheckPromotion", _deep_promotion),
    Call("CheckPromotion, deep, ENFORCE_TRANSITIVE", "CheckPromotion", _held_promotion),
    Call("GetBranchPolicy", "GetBranchPolicy", lambda f, c: {"model_rid": _some_model(f, c)}),
    Call("ListBranchPolicyRevisions", "ListBranchPolicyRevisions", lambda f, c: {"model_rid": _some_model(f, c)}),
    Call("ListGrants", "ListGrants", lambda f, c: {"resource_rid": _some_model(f, c)}),
    Call("ListGrantChanges", "ListGrantChanges", lambda f, c: {"resource_rid": _some_model(f, c)}),
    Call("CreateModel", "CreateModel", lambda *_: {"name": str(uuid.uuid4()), "parent_folder_rid": NEW_FOLDER}),
    Call("CreateModelVersion, deep", "CreateModelVersion",
         lambda f, _: {"model_rid": f.deep_model, "model_api": api_of(10)}, adds=1),
    Call("PromoteVersion", "PromoteVersion", _some_preview),
    Call("PromoteVersion, with an id", "PromoteVersion",
         lambda f, c: {**_some_preview(f, c), "request_id": str(uuid.uuid4())}),
    Call("PromoteVersion, deep", "PromoteVersion", _deep_promotion, adds=1),
    Call("PromoteVersion, deep, ENFORCE_TRANSITIVE", "PromoteVersion", _held_promotion),
    Call(f"BatchPromoteVersions, {FEW}", "BatchPromoteVersions", _some_promotions),
    Call("RollbackBranch, deep", "RollbackBranch", _rollback, adds=1),
    Call(f"BatchRollback, {FEW}", "BatchRollback", _some_rollbacks),
    Call("GetBranchPolicy, of a protected branch", "GetBranchPolicy",
         lambda f, _: {"model_rid": f.deep_model, "branch": PROTECTED}),
    Call("CheckPromotion, into a protected branch", "CheckPromotion", _protected_promotion),
    Call("PromoteVersion, into a protected branch", "PromoteVersion", _protected_promotion),
    Call("BatchPromoteVersions, into a protected branch", "BatchPromoteVersions", _protected_batch),
    Call("RollbackBranch, of a protected branch", "RollbackBranch", _protected_rollback),
    Call("LockBranch", "LockBranch",
         lambda f, _: {"model_rid": f.deep_model, "branch": "locked", "reason": "a reason"}),
    Call("UnlockBranch", "UnlockBranch", lambda f, _: {"model_rid": f.deep_model, "branch": "locked"}),
    Call("SetBranchPolicy", "SetBranchPolicy",
         lambda f, c: {"model_rid": _some_model(f, c), "compatibility": COMPATIBILITY_MODE_WARN}),
    Call("GrantRole", "GrantRole",
         lambda f, c: {"resource_rid": _some_model(f, c), "principal": "group:growth", "role": ROLE_VIEWER}),
    Call("RevokeRole", "RevokeRole", lambda f, c: {"resource_rid": _some_model(f, c), "principal": "group:growth"}),
    Call("SetFolderPolicy", "SetFolderPolicy",
         lambda f, c: {"folder_rid": FOLDER, "new_model_owner": NEW_MODEL_OWNER_CREATOR}),
    Call("GetFolderPolicy", "GetFolderPolicy", lambda f, c: {"folder_rid": FOLDER}),
    Call("SetFolderBranchPolicy", "SetFolderBranchPolicy",
         lambda f, c: {"folder_rid": FOLDER, "branch": "growing", "promotion_only": True}),
    Call("GetFolderBranchPolicy", "GetFolderBranchPolicy", lambda f, c: {"folder_rid": FOLDER, "branch": "growing"}),
    Call("ListFolderBranchPolicyRevisions", "ListFolderBranchPolicyRevisions",
         lambda f, c: {"folder_rid": FOLDER, "branch": "growing"}),
    Call("CreatePromotionRequest", "CreatePromotionRequest", _asked),
    Call("CreatePolicyChangeRequest", "CreatePolicyChangeRequest", _wanted_change),
    Call("ReviewPromotionRequest", "ReviewPromotionRequest",
         # The same approval is written down once; with an id, at least that is.
         lambda f, _: {"promotion_request_rid": f.reviewed, "verdict": REVIEW_VERDICT_APPROVE,
                       "request_id": str(uuid.uuid4())}),
    Call("WithdrawPromotionRequest", "WithdrawPromotionRequest",
         lambda f, _: {"promotion_request_rid": f.open_requests.pop()}),
    Call("GetPromotionRequest", "GetPromotionRequest", lambda f, _: {"promotion_request_rid": f.reviewed}),
    Call("ListPromotionRequests, first page", "ListPromotionRequests", lambda *_: {}),
    Call("ListPromotionRequests, last page", "ListPromotionRequests", _last_requests, is_last_page=True),
    Call("ListPromotionRequests, of a model", "ListPromotionRequests",
         lambda f, _: {"model_rid": f.models[0], "branch": ASKED}),
    Call("ListPromotionRequests, waiting for me", "ListPromotionRequests",
         lambda *_: {"waiting_for_me": True, "page_size": FEW}),
    Call("ListPromotionRequests, expired", "ListPromotionRequests",
         lambda *_: {"state": PROMOTION_REQUEST_STATE_EXPIRED, "page_size": FEW}),
    Call("ListEvents", "ListEvents", lambda *_: {}),
    Call("ListEvents, oldest first", "ListEvents", lambda *_: {"order": LIST_ORDER_OLDEST_FIRST}),
    Call("ListEvents, of a deep model", "ListEvents", lambda f, _: {"model_rid": f.deep_model}),
    Call("ListEvents, of a deep model, oldest first, going on near the end", "ListEvents", _newest_events),
    Call("ListEvents, of a caller", "ListEvents", lambda *_: {"actor": f"user:{CALLER}"}),
    Call("ListEvents, of a rare type", "ListEvents",
         lambda *_: {"types": [NAMES[EventType.GRANT_CHANGED]], "page_size": FEW}, is_admins=True),
    Call("ListEvents, of a rare type, of a deep model", "ListEvents",
         lambda f, _: {"types": [NAMES[EventType.GRANT_CHANGED]], "model_rid": f.deep_model}),
    Call("CreateSubscription", "CreateSubscription",
         lambda f, c: {"resource_rid": _some_model(f, c), "url": HOOK},
         undo=lambda user, _, answer: user("DeleteSubscription", subscription_rid=answer.subscription.rid)),
    Call("GetSubscription", "GetSubscription", lambda f, _: {"subscription_rid": f.subscription}),
    Call("ListSubscriptions", "ListSubscriptions", lambda f, _: {"resource_rid": f.models[0]}),
    Call("UpdateSubscription", "UpdateSubscription",
         lambda f, _: {"subscription_rid": f.subscriptions[0], "description": str(uuid.uuid4())}),
    Call("RotateSubscriptionSecret", "RotateSubscriptionSecret",
         lambda f, _: {"subscription_rid": f.subscriptions[0]}, is_admins=True),
    Call("DeleteSubscription", "DeleteSubscription", lambda f, _: {"subscription_rid": f.subscriptions.pop()},
         undo=lambda user, f, _: f.subscriptions.append(
             user("CreateSubscription", resource_rid=f.models[0], url=HOOK).subscription.rid)),
    Call("ListDeliveries", "ListDeliveries", lambda f, _: {"subscription_rid": f.subscription}),
    Call("ListDeliveries, dead", "ListDeliveries",
         lambda f, _: {"subscription_rid": f.subscription, "state": DELIVERY_STATE_DEAD}),
    Call("RedeliverEvents", "RedeliverEvents",
         lambda f, _: {"subscription_rid": f.subscription, "event_ids": [f.delivered]}),
    Call("ListEvents, until a time", "ListEvents", lambda *_: {"end_time": _now()}),
    Call("TransferOwnership", "TransferOwnership",
         lambda f, c: {"resource_rid": _some_model(f, c), "principal": f"user:{CALLER}"}, is_admins=True),
    Call("DisablePrincipal", "DisablePrincipal",
         lambda f, c: {"principal": "user:growth", "reason": "growth"}, is_admins=True),
    Call("ListDisabledPrincipals", "ListDisabledPrincipals", lambda f, c: {"page_size": FEW}, is_admins=True),
    Call("ListYanks", "ListYanks", lambda f, c: {"model_version_rid": c.choice(f.promoted)}),
    Call("ListLiveCopies", "ListLiveCopies", lambda f, c: {"model_version_rid": c.choice(f.registered)}),
    Call("ListLiveCopies of the version promoted N times", "ListLiveCopies",
         lambda f, _: {"model_version_rid": f.hub}, goal=False),
    Call("UnyankVersion", "UnyankVersion", lambda f, c: {"yank_rid": c.choice(f.yanks)}),
    # What is yanked is promoted no more.
    Call("YankVersion", "YankVersion", _yank),
    Call("EnablePrincipal", "EnablePrincipal", lambda f, c: {"principal": "user:growth"}, is_admins=True),
)  # fmt: skip
