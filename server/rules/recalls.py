"""Recalls: which versions must not be promoted any more, who may say so, and who may take that back.

What is yanked is refused by the obstacle of promotions that says so, and replaced by `batch_rollback`.
"""

from __future__ import annotations

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_UNSPECIFIED, Role
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.recall_service_pb2 import (
    YANK_SCOPE_LINEAGE,
    UnyankVersionRequest,
    Yank,
    YankScope,
    YankVersionRequest,
)
from server.core import rids
from server.core.caller import Caller
from server.core.errors import ModelNotFound, ModelVersionNotFound, RecallPermissionDenied, YankNotFound
from server.core.permissions import TO_UNYANK, TO_YANK_LINEAGES, TO_YANK_VERSIONS
from server.rules.idempotency import claim
from server.storage.contract import Reader, Transaction


def yank_version(tx: Transaction, caller: Caller, request: YankVersionRequest) -> Yank:
    """Record that a version is yanked, or its lineage, and return the yank.

    The same request, by its id, is carried out once: it returns the same yank again, as it is by then. Raises
    ModelNotFound, RequestIdAlreadyUsed, ModelVersionNotFound and RecallPermissionDenied.
    """
    tx.get_model(request.model_rid, caller)
    rid = rids.new_yank_rid()
    earlier = claim(tx, caller, request, [rid])
    if earlier is not None:
        return _find_yank(tx, caller, earlier[0])
    found = tx.find_version(request.model_version_rid, caller)
    if found is None or found.version.model_rid != request.model_rid:
        raise ModelVersionNotFound(model_rid=request.model_rid, model_version_rid=request.model_version_rid)
    needed = TO_YANK_LINEAGES if request.scope == YANK_SCOPE_LINEAGE else TO_YANK_VERSIONS
    _require_role(tx, caller, found.version, request.scope, needed)
    return tx.add_yank(
        Yank(
            rid=rid,
            model_rid=request.model_rid,
            model_version_rid=request.model_version_rid,
            scope=request.scope,
            reason=request.reason,
            yanked_by=caller.user,
        )
    )


def unyank_version(tx: Transaction, caller: Caller, request: UnyankVersionRequest) -> Yank:
    """Record that a yank holds no longer, and return it; nothing is recorded if it was taken back before.

    Raises YankNotFound and RecallPermissionDenied.
    """
    yank = _find_yank(tx, caller, request.yank_rid)
    found = tx.find_version(yank.model_version_rid, caller)
    if found is None:  # Hidden from the caller since it was asked for the yank.
        raise YankNotFound(yank_rid=request.yank_rid)
    _require_role(tx, caller, found.version, yank.scope, TO_UNYANK)
    tx.take_yank_back(yank, request.reason if request.HasField("reason") else None, caller.user)
    return _find_yank(tx, caller, request.yank_rid)


def _find_yank(reader: Reader, caller: Caller, yank_rid: str) -> Yank:
    yank = reader.find_yank(yank_rid, caller)
    if yank is None:
        raise YankNotFound(yank_rid=yank_rid)
    return yank


def _require_role(
    reader: Reader, caller: Caller, version: ModelVersion, scope: YankScope.ValueType, needed: Role.ValueType
) -> None:
    """Return if the caller has a role on the model of a version, of a lineage on that of its root.

    Raises RecallPermissionDenied, which says nothing of the root.
    """
    decisive: ModelVersion | None = version
    if scope == YANK_SCOPE_LINEAGE and version.root_model_version_rid != version.rid:
        root = reader.find_version(version.root_model_version_rid, caller)
        decisive = None if root is None else root.version
    if decisive is None:
        # An import may bring a version without its root: then nobody owns that.
        role = ROLE_OWNER if caller.is_admin else ROLE_UNSPECIFIED
    else:
        role = _role(reader, caller, decisive.model_rid)
    if role < needed:
        raise RecallPermissionDenied(model_rid=version.model_rid)


def _role(reader: Reader, caller: Caller, model_rid: str) -> Role.ValueType:
    try:
        return reader.get_model(model_rid, caller).role
    except ModelNotFound:  # Hidden from the caller since it was seen.
        return ROLE_UNSPECIFIED
