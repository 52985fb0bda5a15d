"""For how long versions were heads, and what branches were rolled back from: what rules for promotions look back on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ScalarSelect, and_, bindparam, exists, literal, or_, select

from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_ROLLBACK
from server.storage.contract import MOST_TENURES, BranchEnd, Tenure
from server.storage.sql.statements import Statement
from server.storage.sql.tables import branches, models, promotions, versions
from server.storage.sql.unit_of_work import UnitOfWork

_source = versions.alias("source")
_next = versions.alias("next")


def list_tenures(work: UnitOfWork, model_version_rid: str) -> list[Tenure]:
    """See the contract."""
    tenures: dict[int, Tenure] = {}
    for row in work.session.all(_tenures, {"version_rid": model_version_rid}):
        if row.id in tenures:  # The chain bites its own tail, which only an import can make.
            break
        until_ms = None if row.until is None else max(row.until, row.until_imported or 0)
        tenures[row.id] = Tenure(row.model_rid, row.branch, max(row.since, row.since_imported or 0), until_ms)
    return [*tenures.values()]


def was_rolled_back(work: UnitOfWork, branch: BranchEnd, content_digest: bytes) -> bool:
    """See the contract."""
    # As two statements, so that each walks along the branch, from its head to the version that was taken in last.
    values = {"branch_key": branch.key, "digest": content_digest}
    taken_in = work.session.one_or_none(_taken_in, values)
    if taken_in is None:
        return False
    was_left: bool = work.session.one(_was_left, values | {"number": taken_in.version_number}).was_left
    return was_left


# Of each version on the way, what is asked of it below. Not by joins, for which PostgreSQL would as soon read all
# branches, models and versions: it takes the way for long.
_ON_THE_WAY = ("id", "branch_id", "version_number", "content_digest", "created_time", "imported_time")
_walked = (
    select(*(versions.c[name] for name in _ON_THE_WAY), literal(1).label("place"))
    .where(versions.c.rid == bindparam("version_rid"))
    .cte("walked", recursive=True)
)
_walked = _walked.union_all(
    select(*(_source.c[name] for name in _ON_THE_WAY), _walked.c.place + 1)
    .join_from(_walked, promotions, promotions.c.version_id == _walked.c.id)
    .join(_source, _source.c.rid == promotions.c.source_rid)
    .where(_walked.c.place < MOST_TENURES, _source.c.content_digest == _walked.c.content_digest)
)


def _of_branch(column: Column[Any]) -> ScalarSelect[Any]:
    branch = select(column).join_from(branches, models, models.c.id == branches.c.model_id)
    return branch.where(branches.c.id == _walked.c.branch_id).scalar_subquery()


def _of_next(column: Column[Any]) -> ScalarSelect[Any]:
    follows = and_(_next.c.branch_id == _walked.c.branch_id, _next.c.version_number == _walked.c.version_number + 1)
    return select(column).where(follows).scalar_subquery()


_tenures = Statement(
    select(
        _walked.c.id,
        _of_branch(models.c.rid).label("model_rid"),
        _of_branch(branches.c.name).label("branch"),
        _walked.c.created_time.label("since"),
        _walked.c.imported_time.label("since_imported"),
        _of_next(_next.c.created_time).label("until"),
        _of_next(_next.c.imported_time).label("until_imported"),
    ).order_by(_walked.c.place)
)
# The newest version of the content that is no rollback, but by override.
_taken_in = Statement(
    select(versions.c.version_number)
    .select_from(versions)
    .outerjoin(promotions, promotions.c.version_id == versions.c.id)
    .where(
        versions.c.branch_id == bindparam("branch_key"),
        versions.c.content_digest == bindparam("digest"),
        or_(promotions.c.id.is_(None), promotions.c.kind != PROMOTION_KIND_ROLLBACK, promotions.c.override.is_(True)),
    )
    .order_by(versions.c.version_number.desc())
    .limit(1)
)
_was_left = Statement(
    select(
        exists()
        .where(
            versions.c.branch_id == bindparam("branch_key"),
            versions.c.version_number > bindparam("number"),
            versions.c.content_digest != bindparam("digest"),
            promotions.c.version_id == versions.c.id,
            promotions.c.kind == PROMOTION_KIND_ROLLBACK,
            _source.c.rid == promotions.c.source_rid,
            _source.c.version_number < bindparam("number"),
        )
        .label("was_left")
    )
)
