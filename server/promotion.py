"""The main job: an existing version is copied into another model as the new head of a branch."""

from __future__ import annotations

from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from server import rids
from server.auth.access import TO_PROMOTE
from server.branches import branch_of
from server.caller import Caller
from server.errors import (
    ModelNotFound,
    ModelVersionNotFound,
    PromoteVersionModelPermissionDenied,
    UnsupportedModelSource,
)
from server.storage.repository import Transaction


def promote_version(tx: Transaction, caller: Caller, request: PromoteVersionRequest) -> ModelVersion:
    """Copy the source version into the target model and return the copy.

    The order of the checks is a promise: each failure wins over those after it. Raises ModelNotFound,
    PromoteVersionModelPermissionDenied, ModelVersionNotFound and UnsupportedModelSource.
    """
    _require_promoter(tx, caller, request.model_rid)
    source = tx.find_version(request.source_model_version_rid, caller)
    if source is None:
        raise _source_not_found(request)
    if source.legacy_source is not None:
        raise UnsupportedModelSource
    copy = _copy(source.version, request.model_rid, branch_of(request), caller)
    promoted = tx.append_version(copy, source.content_digest)
    # The branch may have kept us waiting, and a role that was revoked meanwhile counts.
    _require_promoter(tx, caller, request.model_rid)
    try:
        tx.get_model(source.version.model_rid, caller)
    except ModelNotFound:
        raise _source_not_found(request) from None
    return promoted


def _require_promoter(tx: Transaction, caller: Caller, model_rid: str) -> None:
    if tx.get_model(model_rid, caller).role < TO_PROMOTE:
        raise PromoteVersionModelPermissionDenied(model_rid=model_rid)


def _source_not_found(request: PromoteVersionRequest) -> ModelVersionNotFound:
    return ModelVersionNotFound(model_rid=request.model_rid, model_version_rid=request.source_model_version_rid)


def _copy(source: ModelVersion, model_rid: str, branch: str, caller: Caller) -> ModelVersion:
    """Return the copy: everything equal to the source, the root carried over, but for what is the copy's own."""
    copy = ModelVersion()
    copy.CopyFrom(source)
    copy.rid = rids.new_model_version_rid()
    copy.model_rid = model_rid
    copy.branch = branch
    copy.created_by = caller.user
    copy.ClearField("created_time")
    copy.ClearField("version_number")
    promoted = PromotedSource(previous_model_rid=source.model_rid, previous_model_version_rid=source.rid)
    copy.source.CopyFrom(ModelVersionSource(promoted=promoted))
    return copy
