"""For how long versions were heads, and what branches were rolled back from: what rules for promotions look back on."""

from __future__ import annotations

from sqlalchemy import Select, and_, bindparam, exists, literal, or_, select, true
from sqlalchemy.engine import Dialect

from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_ROLLBACK
from server.storage.contract import MOST_TENURES, BranchEnd, Tenure
from server.storage.sql.lineage import source_of
from server.storage.sql.rows import AnyColumns
from server.storage.sql.statements import Statement
from server.storage.sql.tables import branches, models, promotions, versions
from server.storage.sql.unit_of_work import UnitOfWork

_source = versions.alias("source")
_next = versions.alias("next")


def list_tenures(work: UnitOfWork, model_version_rid: str) -> list[Tenure]:
    """See the contract."""
    tenures: dict[int, Tenure] = {}
    content_digest: bytes | None = None
    for row in work.session.all(_tenures, {"version_rid": model_version_rid}):
        content_digest = content_digest or row.content_digest
        # Only an import makes a promotion of other content, or a chain that bites its own tail.
        if row.content_digest != content_digest or row.id in tenures:
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


_walked = (
    select(versions.c.id, literal(1).label("place"))
    .where(versions.c.rid == bindparam("version_rid"))
    .cte("walked", recursive=True)
)
# It ends with NULL.
_walked = _walked.union_all(
    select(source_of(_walked.c.id), _walked.c.place + 1).where(
        _walked.c.id.is_not(None), _walked.c.place < MOST_TENURES
    )
)
_told = (
    select(
        versions.c.id,
        versions.c.content_digest,
        models.c.rid.label("model_rid"),
        branches.c.name.label("branch"),
        versions.c.created_time.label("since"),
        versions.c.imported_time.label("since_imported"),
        _next.c.created_time.label("until"),
        _next.c.imported_time.label("until_imported"),
    )
    .join_from(versions, branches)
    .join(models)
    .outerjoin(
        _next,
        and_(_next.c.branch_id == versions.c.branch_id, _next.c.version_number == versions.c.version_number + 1),
    )
)


def _build_tenures(dialect: Dialect) -> Select[*AnyColumns]:
    if dialect.name != "postgresql":
        return _told.join(_walked, _walked.c.id == versions.c.id).order_by(_walked.c.place)
    # Of one version at a time, since PostgreSQL would as soon read all: it takes the way for long, and a session that
    # has made its plans in an empty registry takes the tables for small.
    told = _told.where(versions.c.id == _walked.c.id).limit(1).lateral("told")
    return select(told).join_from(_walked, told, true()).order_by(_walked.c.place)


_tenures = Statement(_build_tenures)
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
