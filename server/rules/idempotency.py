"""Requests that are carried out once, however often they arrive: those with a request id.

An id stands for one request of one caller to one RPC. Two requests are the same if their canonical forms are equal. A
request that failed is not remembered, so it can be tried again with the same id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from google.protobuf.message import Message

from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, SdkSource
from modelregistry.v1.model_service_pb2 import CreateModelRequest, CreateModelVersionRequest, PromoteVersionRequest
from modelregistry.v1.promotion_request_service_pb2 import (
    CreatePolicyChangeRequestRequest,
    CreatePromotionRequestRequest,
    ReviewPromotionRequestRequest,
    WithdrawPromotionRequestRequest,
)
from modelregistry.v1.promotion_service_pb2 import BatchPromoteVersionsRequest, RollbackBranchRequest
from modelregistry.v1.recall_service_pb2 import BatchRollbackRequest, YankVersionRequest
from modelregistry.v1.subscription_service_pb2 import (
    CreateSubscriptionRequest,
    RedeliverEventsRequest,
    RotateSubscriptionSecretRequest,
)
from server.core.branches import branch_of
from server.core.caller import Caller
from server.core.errors import ModelNotFound, RequestIdAlreadyUsed
from server.rules.policy_changes import asked_of
from server.storage.contract import Reader, RequestKey, RequestRecord, Transaction

Repeatable: TypeAlias = (
    CreateModelRequest
    | CreateModelVersionRequest
    | PromoteVersionRequest
    | RollbackBranchRequest
    | BatchPromoteVersionsRequest
    | YankVersionRequest
    | BatchRollbackRequest
    | CreatePromotionRequestRequest
    | CreatePolicyChangeRequestRequest
    | ReviewPromotionRequestRequest
    | WithdrawPromotionRequestRequest
    | CreateSubscriptionRequest
    | RotateSubscriptionSecretRequest
    | RedeliverEventsRequest
)


# Those that may leave out the name of a branch.
_ON_A_BRANCH = (
    CreateModelVersionRequest,
    PromoteVersionRequest,
    RollbackBranchRequest,
    CreatePromotionRequestRequest,
)


def is_repeatable(request: Repeatable) -> bool:
    """Whether the request has an id, so that carrying it out again does nothing."""
    return request.HasField("request_id")


def replayed_results(reader: Reader, caller: Caller, request: Repeatable) -> tuple[str, ...] | None:
    """Return the RIDs of what the same request made before; None if it was not carried out, or has no id.

    Raises RequestIdAlreadyUsed.
    """
    if not is_repeatable(request):
        return None
    return _results(request, reader.find_request(_key(caller, request)))


def claim(tx: Transaction, caller: Caller, request: Repeatable, results: Sequence[str]) -> tuple[str, ...] | None:
    """Return the RIDs of what the same request made before; None if this one is the first, and is to make `results`.

    The first one is recorded in its own transaction; the same one arriving at the same time waits for it here. Raises
    RequestIdAlreadyUsed.
    """
    this = claim_of(caller, request, results)
    return None if this is None else _results(request, tx.claim_request(this.key, this.request))


class Claim(NamedTuple):
    """A request with an id: the id as it was given, the key that it is remembered under, and what is remembered."""

    request_id: str
    key: RequestKey
    request: RequestRecord


def claim_of(caller: Caller, request: Repeatable, results: Sequence[str]) -> Claim | None:
    """Return what is to be remembered of a request that makes `results`; None if it has no id."""
    if not is_repeatable(request):
        return None
    return Claim(request.request_id, _key(caller, request), RequestRecord(_digest(request), tuple(results)))


def replayed_version(reader: Reader, caller: Caller, model_rid: str, version_rid: str) -> ModelVersion:
    """Return the version of a model that a request made when it came before.

    Raises ModelNotFound if the caller may see the model no more.
    """
    found = reader.find_version(version_rid, caller)
    if found is None:
        raise ModelNotFound(model_rid=model_rid)
    return found.as_seen()


def _results(request: Repeatable, earlier: RequestRecord | None) -> tuple[str, ...] | None:
    if earlier is None:
        return None
    if earlier.digest != _digest(request):
        raise RequestIdAlreadyUsed(request_id=request.request_id)
    return earlier.results


def _key(caller: Caller, request: Repeatable) -> RequestKey:
    rpc = request.DESCRIPTOR.name.removesuffix("Request")
    return RequestKey(caller.user, rpc, request.request_id.lower())


def _digest(request: Repeatable) -> bytes:
    return hashlib.sha256(_canonical(request).SerializeToString(deterministic=True)).digest()


def _canonical(request: Repeatable) -> Message:
    """Return what a request asks for, with what it leaves out filled in, and without its id."""
    canonical = type(request)()
    canonical.CopyFrom(request)  # type: ignore[arg-type]
    canonical.ClearField("request_id")
    canonical.DiscardUnknownFields()
    if isinstance(canonical, CreateModelVersionRequest) and not canonical.HasField("source"):
        canonical.source.CopyFrom(ModelVersionSource(sdk=SdkSource()))
    if isinstance(canonical, _ON_A_BRANCH):
        canonical.branch = branch_of(canonical)
    if isinstance(canonical, CreatePolicyChangeRequestRequest):
        asked = asked_of(canonical.policy_change)
        asked.branch = branch_of(asked)
    if isinstance(canonical, BatchPromoteVersionsRequest):
        for promotion in canonical.promotions:
            promotion.branch = branch_of(promotion)
    if isinstance(canonical, BatchRollbackRequest):
        for rollback in canonical.rollbacks:
            rollback.branch = branch_of(rollback)
    return canonical
