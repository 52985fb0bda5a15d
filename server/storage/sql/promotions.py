"""Questions about promotions of `server.storage.promotions` as SQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, select, tuple_

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_WARN
from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_pb2 import BranchPolicy, Promotion
from server.caller import Caller
from server.storage.promotions import (
    BranchEnd,
    Comparison,
    EarlierRequest,
    Head,
    PromotionFilter,
    RequestKey,
    Verdict,
)
from server.storage.repository import Page, PageRequest, StoredVersion
from server.storage.sql.access import model_is_visible
from server.storage.sql.lineage import SqlLineageReader
from server.storage.sql.opaque import Opaque
from server.storage.sql.reader import MANY, branch_id, model_id, stored_versions, that_fit
from server.storage.sql.rows import MAX_BYTES_A_CHARACTER, AnyRow, timestamp, to_stored_version
from server.storage.sql.tables import (
    branch_policies,
    branches,
    contents,
    models,
    opaque_keys,
    promotions,
    requests,
    verdicts,
    versions,
)

_replaced = versions.alias("replaced")
_source = versions.alias("source_version")
_source_branch = branches.alias("source_branch")
_source_model = models.alias("source_model")

# What the fields add to the bytes of their values, and the fields of a fixed size, at most.
_OVERHEAD_BYTES = 160


class SqlPromotionReader(SqlLineageReader):
    """Questions about promotions."""

    def get_branch_end(self, model_rid: str, branch: str) -> BranchEnd:
        """See the contract."""
        query = (
            select(func.coalesce(branches.c.version_count + 1, 1).label("next_number"), *_head_and_policy(branch))
            .select_from(models)
            .outerjoin(branches, and_(branches.c.model_id == models.c.id, branches.c.name == branch))
            .outerjoin(
                versions,
                and_(versions.c.branch_id == branches.c.id, versions.c.version_number == branches.c.version_count),
            )
            .where(models.c.rid == model_rid)
        )
        return to_branch_end(self.connection.execute(query).one())

    def find_numbered_version(
        self, model_rid: str, branch: str, version_number: int, caller: Caller
    ) -> StoredVersion | None:
        """See the contract."""
        query = stored_versions(caller).where(
            versions.c.branch_id == branch_id(model_rid, branch), versions.c.version_number == version_number
        )
        row = self.connection.execute(query).one_or_none()
        return None if row is None else to_stored_version(row)

    def find_verdict(self, comparison: Comparison) -> Verdict | None:
        """See the contract."""
        query = (
            select(verdicts.c.id, verdicts.c.error_count)
            .where(
                verdicts.c.head_digest == comparison.head_digest,
                verdicts.c.candidate_digest == comparison.candidate_digest,
                verdicts.c.rules == comparison.rules,
            )
            .limit(1)
        )
        row = self.connection.execute(query).one_or_none()
        return None if row is None else Verdict(row.id, row.error_count)

    def get_findings(self, verdict: Verdict) -> Promotion:
        """See the contract."""
        payload = self.connection.scalars(select(verdicts.c.payload).where(verdicts.c.id == verdict.key)).one()
        return Promotion.FromString(payload)

    def get_model_api(self, content_digest: bytes) -> ModelApi:
        """See the contract."""
        query = select(contents.c.payload).where(contents.c.digest == content_digest)
        return ModelVersion.FromString(self.connection.scalars(query).one()).model_api

    def find_request(self, key: RequestKey) -> EarlierRequest | None:
        """See the contract."""
        query = select(requests.c.digest, requests.c.results).filter_by(**key._asdict())
        row = self.connection.execute(query).one_or_none()
        return None if row is None else EarlierRequest(row.digest, tuple(row.results.split()))

    def find_promotion(self, promotion_rid: str, caller: Caller) -> Promotion | None:
        """See the contract."""
        query = _promotions(caller).add_columns(verdicts.c.payload).where(promotions.c.rid == promotion_rid)
        row = self.connection.execute(query).one_or_none()
        return None if row is None else _to_promotion(row)

    def get_promotion_rid(self, model_version_rid: str) -> str:
        """See the contract."""
        query = select(promotions.c.rid).join(versions, versions.c.id == promotions.c.version_id)
        promotion_rid: str = self.connection.scalars(query.where(versions.c.rid == model_version_rid)).one()
        return promotion_rid

    def list_promotions(self, caller: Caller, wanted: PromotionFilter, page: PageRequest) -> Page[Promotion]:
        """See the contract."""
        opaque = Opaque(self.connection.scalars(select(opaque_keys.c.key)).one())
        order = (promotions.c.created_time.desc(), promotions.c.id.desc())
        query = _promotions(caller).add_columns(promotions.c.id, _promotion_bytes().label("size"))
        query = query.where(*_filters(caller, wanted)).order_by(*order).limit(page.size + 1)
        if not caller.is_admin and wanted.model_rid is None:
            # As values, of which a database knows how many rows they have: of those of all the others it reads none.
            visible = self.visible_model_keys(caller)
            if len(visible) < MANY:
                query = query.where(promotions.c.model_id.in_(visible))
        if page.after is not None:
            position = opaque.numbers(page.after)
            query = query.where(tuple_(promotions.c.created_time, promotions.c.id) < position)
        rows = self.with_payloads(query, verdicts, "verdict_id", lambda row: (row.created_time.desc(), row.id.desc()))
        listed = that_fit(rows[: page.size])
        following = opaque.position(listed[-1].created_time, listed[-1].id) if len(listed) < len(rows) else None
        return Page([_to_promotion(row) for row in listed], following)

    def get_policy(self, model_rid: str, branch: str) -> BranchPolicy:
        """See the contract."""
        query = select(branch_policies).where(
            branch_policies.c.model_id == model_id(model_rid), branch_policies.c.branch == branch
        )
        row = self.connection.execute(query.order_by(branch_policies.c.id.desc()).limit(1)).one_or_none()
        policy = BranchPolicy(model_rid=model_rid, branch=branch, compatibility=COMPATIBILITY_MODE_WARN)
        if row is not None:
            policy.compatibility = row.compatibility
            policy.changed_by = row.changed_by
            policy.changed_time.CopyFrom(timestamp(row.changed_time))
        return policy


def _head_and_policy(branch: str) -> list[ColumnElement[Any]]:
    """The columns of `to_branch_end` but for the number, beside `versions` with the head or NULL, and `models`."""
    policy = (
        select(branch_policies.c.compatibility)
        .where(branch_policies.c.model_id == models.c.id, branch_policies.c.branch == branch)
        .order_by(branch_policies.c.id.desc())
        .limit(1)
        .correlate(models)
        .scalar_subquery()
    )
    return [
        versions.c.rid,
        versions.c.content_digest,
        versions.c.created_time,
        func.coalesce(policy, COMPATIBILITY_MODE_WARN).label("compatibility"),
    ]


def branch_end(branch_key: int, branch: str, next_number: int) -> Select[Any]:
    """Return the query for where a branch goes on whose next number is taken already."""
    return (
        select(branches.c.version_count.label("next_number"), *_head_and_policy(branch))
        .join_from(branches, models)
        .outerjoin(versions, and_(versions.c.branch_id == branches.c.id, versions.c.version_number == next_number - 1))
        .where(branches.c.id == branch_key)
    )


def to_branch_end(row: AnyRow) -> BranchEnd:
    """Return the end of a branch as its row says."""
    head = None if row.rid is None else Head(row.rid, row.content_digest, row.created_time)
    return BranchEnd(row.next_number, head, row.compatibility)


def _promotions(caller: Caller) -> Select[Any]:
    """Return the query for the promotions that a caller may see, with what the caller may see of each."""
    source_is_visible = and_(_source_model.c.id.is_not(None), model_is_visible(caller, _source_model))
    return (
        select(
            promotions.c.rid,
            promotions.c.kind,
            promotions.c.source_model_rid,
            promotions.c.source_rid,
            promotions.c.reason,
            promotions.c.created_time,
            promotions.c.created_by,
            promotions.c.verdict_id,
            source_is_visible.label("source_is_visible"),
            models.c.rid.label("model_rid"),
            branches.c.name.label("branch"),
            versions.c.rid.label("version_rid"),
            versions.c.version_number,
            _replaced.c.rid.label("replaced_rid"),
        )
        .join_from(promotions, versions, versions.c.id == promotions.c.version_id)
        .join(branches, branches.c.id == versions.c.branch_id)
        .join(models, models.c.id == promotions.c.model_id)
        .outerjoin(
            _replaced,
            and_(
                _replaced.c.branch_id == versions.c.branch_id,
                _replaced.c.version_number == versions.c.version_number - 1,
            ),
        )
        .outerjoin(_source, _source.c.rid == promotions.c.source_rid)
        .outerjoin(_source_branch, _source_branch.c.id == _source.c.branch_id)
        .outerjoin(_source_model, _source_model.c.id == _source_branch.c.model_id)
        .outerjoin(verdicts, verdicts.c.id == promotions.c.verdict_id)
        .where(model_is_visible(caller))
    )


def _filters(caller: Caller, wanted: PromotionFilter) -> list[ColumnElement[bool]]:
    conditions = []
    if wanted.model_rid is not None:
        conditions.append(promotions.c.model_id == model_id(wanted.model_rid))
    if wanted.branch is not None:
        conditions.append(branches.c.name == wanted.branch)
    if wanted.source_rid is not None:
        conditions += [promotions.c.source_rid == wanted.source_rid, _source_model.c.id.is_not(None)]
        conditions.append(model_is_visible(caller, _source_model))
    if wanted.version_rid is not None:
        conditions.append(versions.c.rid == wanted.version_rid)
    if wanted.created_by is not None:
        conditions.append(promotions.c.created_by == wanted.created_by)
    if wanted.since_ms is not None:
        conditions.append(promotions.c.created_time >= wanted.since_ms)
    if wanted.until_ms is not None:
        conditions.append(promotions.c.created_time < wanted.until_ms)
    return conditions


def _promotion_bytes() -> ColumnElement[int]:
    """The size at most, as a message, of a promotion."""
    rids = (promotions.c.rid, promotions.c.source_model_rid, promotions.c.source_rid, models.c.rid, versions.c.rid)
    names = (branches.c.name, promotions.c.created_by, func.coalesce(promotions.c.reason, ""))
    return (
        sum(func.length(rid) for rid in rids)
        + func.coalesce(func.length(_replaced.c.rid), 0)
        + sum(MAX_BYTES_A_CHARACTER * func.length(name) for name in names)
        + func.coalesce(verdicts.c.size, 0)
        + _OVERHEAD_BYTES
    )


def _to_promotion(row: AnyRow) -> Promotion:
    promotion = Promotion() if row.payload is None else Promotion.FromString(row.payload)
    promotion.rid = row.rid
    promotion.kind = row.kind
    if row.source_is_visible:
        promotion.source_model_rid = row.source_model_rid
        promotion.source_model_version_rid = row.source_rid
    promotion.model_rid = row.model_rid
    promotion.branch = row.branch
    promotion.model_version_rid = row.version_rid
    promotion.version_number = row.version_number
    if row.replaced_rid is not None:
        promotion.replaced_version_rid = row.replaced_rid
    promotion.created_by = row.created_by
    if row.reason is not None:
        promotion.reason = row.reason
    promotion.created_time.FromMilliseconds(row.created_time)
    return promotion
