"""The Model APIs that heads of a branch have had: the question and the change of the contract about them."""

from __future__ import annotations

from sqlalchemy import LargeBinary, and_, bindparam, func, select

from server.storage.contract import HeadApi, PolicyPeriod, Verdict
from server.storage.sql.statements import Statement, upsert
from server.storage.sql.tables import branch_id, branch_model_apis, verdicts, versions
from server.storage.sql.unit_of_work import UnitOfWork


def list_head_apis(
    work: UnitOfWork, branch_key: int, period: PolicyPeriod, candidate: HeadApi, rules: int, most: int
) -> list[HeadApi]:
    """See the contract."""
    rows = work.session.all(
        _recorded,
        {
            "branch_key": branch_key,
            "candidate_api": candidate.api_digest,
            "candidate_content": candidate.content_digest,
            "rules": rules,
            "most": most,
        }
        | period._asdict(),
    )
    # The same verdict may be stored twice.
    by_number = {row.version_number: row for row in rows}
    return [
        HeadApi(
            row.api_digest,
            row.version_number,
            row.content_digest,
            None if row.verdict_id is None else Verdict(row.verdict_id, row.error_count),
        )
        for row in by_number.values()
    ]


def add_head_api(work: UnitOfWork, model_rid: str, branch: str, period: PolicyPeriod, api: HeadApi) -> None:
    """See the contract."""
    work.session.send(
        _add,
        {"model_rid": model_rid, "branch": branch, "number": api.version_number, "digest": api.api_digest}
        | period._asdict(),
    )


# Of a row, that of its version. Not by a join, for which PostgreSQL would as soon walk through all versions of the
# branch.
_content = (
    select(versions.c.content_digest)
    .where(
        versions.c.branch_id == branch_model_apis.c.branch_id,
        versions.c.version_number == branch_model_apis.c.version_number,
    )
    .scalar_subquery()
)
_counted = (
    select(
        branch_model_apis.c.version_number,
        branch_model_apis.c.api_digest,
        _content.label(versions.c.content_digest.key),
    )
    .where(
        branch_model_apis.c.branch_id == bindparam("branch_key"),
        branch_model_apis.c.level_rid == bindparam("level_rid"),
        branch_model_apis.c.since_revision == bindparam("since_revision"),
    )
    .order_by(branch_model_apis.c.version_number.desc())
    .limit(bindparam("most"))
    .cte("counted")
)
_own = _counted.alias("own")
_content_of_candidate = func.coalesce(
    select(_own.c.content_digest).where(_own.c.api_digest == bindparam("candidate_api")).limit(1).scalar_subquery(),
    bindparam("candidate_content", type_=LargeBinary),
)
_recorded = Statement(
    select(_counted, verdicts.c.id.label("verdict_id"), verdicts.c.error_count)
    .outerjoin_from(
        _counted,
        verdicts,
        and_(
            verdicts.c.head_digest == _counted.c.content_digest,
            verdicts.c.candidate_digest == _content_of_candidate,
            verdicts.c.rules == bindparam("rules"),
        ),
    )
    .order_by(_counted.c.version_number.desc())
)
_add = Statement(
    lambda dialect: (
        upsert(dialect, branch_model_apis)
        .values(
            branch_id=branch_id(bindparam("model_rid"), bindparam("branch")),
            level_rid=bindparam("level_rid"),
            since_revision=bindparam("since_revision"),
            version_number=bindparam("number"),
            api_digest=bindparam("digest"),
        )
        .on_conflict_do_nothing()
    )
)
