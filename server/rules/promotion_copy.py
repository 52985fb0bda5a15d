"""What a promotion makes: the copy of a version, and the record of it."""

from __future__ import annotations

from typing import NamedTuple

from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.promotion_pb2 import Promotion, PromotionKind
from server.core import rids
from server.core.caller import Caller
from server.storage.contract import StoredVersion


class Copy(NamedTuple):
    """What is copied to where, and why."""

    kind: PromotionKind.ValueType
    source: StoredVersion
    rid: str
    model_rid: str
    branch: str
    reason: str | None


def version_of(copy: Copy, caller: Caller) -> ModelVersion:
    """Return the copy: everything equal to the source, the root carried over, but for what is the copy's own."""
    source, version = copy.source.version, ModelVersion()
    version.CopyFrom(source)
    version.rid = copy.rid
    version.model_rid = copy.model_rid
    version.branch = copy.branch
    version.created_by = caller.user
    version.ClearField("created_time")
    version.ClearField("version_number")
    promoted = PromotedSource(previous_model_rid=source.model_rid, previous_model_version_rid=source.rid)
    version.source.CopyFrom(ModelVersionSource(promoted=promoted))
    return version


def record_of(copy: Copy) -> Promotion:
    """Return what is recorded of it, but for what its version says."""
    return Promotion(
        rid=rids.new_promotion_rid(),
        kind=copy.kind,
        source_model_rid=copy.source.version.model_rid,
        source_model_version_rid=copy.source.version.rid,
        model_version_rid=copy.rid,
        reason=copy.reason,
    )
