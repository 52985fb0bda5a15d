"""The main job: an existing version is copied into another model as the new head of a branch."""

from __future__ import annotations

from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from server import rids
from server.auth.access import TO_PROMOTE
from server.branches import branch_of
from server.caller import Caller
from server.errors import ModelVersionNotFound, PromoteVersionModelPermissionDenied, UnsupportedModelSource
from server.storage.repository import StoredVersion, Transaction


def promote_version(tx: Transaction, caller: Caller, request: PromoteVersionRequest) -> ModelVersion:
    """Copy the source version into the target model and return the copy.

    The order of the checks is a promise: each failure wins over those after it. Raises ModelNotFound,
    PromoteVersionModelPermissionDenied, ModelVersionNotFound and UnsupportedModelSource.
    """
    source = _source(tx, caller, request)
    copy = _copy(source.version, request.model_rid, branch_of(request), caller)
    promoted = tx.append_version(copy, source.content_digest)
    # The branch may have kept us waiting, and a role that was revoked meanwhile counts.
    _source(tx, caller, request)
    return promoted


def _source(tx: Transaction, caller: Caller, request: PromoteVersionRequest) -> StoredVersion:
    """Return the source version if the caller may promote it into the target model."""
    if tx.get_model(request.model_rid, caller).role < TO_PROMOTE:
        raise PromoteVersionModelPermissionDenied(model_rid=request.model_rid)
    source = tx.find_version(request.source_model_version_rid, caller)
    if source is None:
        raise ModelVersionNotFound(model_rid=request.model_rid, model_version_rid=request.source_model_version_rid)
    if source.legacy_source is not None:
        raise UnsupportedModelSource
    return source


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
