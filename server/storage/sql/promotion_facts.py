"""What promotions are decided by: facts, verdicts, requests with an id."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, and_, bindparam, delete, exists, insert, literal, select, true
from sqlalchemy.engine import Dialect

from modelregistry.v1.access_service_pb2 import Role
from modelregistry.v1.promotion_pb2 import BranchPolicy, Promotion
from server.core.caller import Caller
from server.core.integrity import BEGINNING
from server.storage.contract import (
    NO_POLICY,
    BranchEnd,
    Comparison,
    Head,
    PromotionFacts,
    RequestKey,
    RequestRecord,
    StoredVersion,
    Verdict,
    WantedPromotion,
)
from server.storage.sql.branch_policies import revision_of, stored_rules
from server.storage.sql.decisions import mark, marking_after
from server.storage.sql.origins import hides_root, visible_key
from server.storage.sql.recalls import stopping_yank, suspect
from server.storage.sql.rows import AnyColumns, AnyRow
from server.storage.sql.session import Conflict
from server.storage.sql.statements import Statement, for_callers, principals, upsert
from server.storage.sql.tables import (
    branch_policies,
    branches,
    folder_branch_policies,
    is_head,
    models,
    promotions,
    requests,
    verdicts,
    versions,
)
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.versions import get_version
from server.storage.sql.visibility import role_on_model

_policies = branch_policies.alias("policies")
_of_folder = folder_branch_policies.alias("of_folder")


def get_promotion_facts(work: UnitOfWork, wanted: WantedPromotion, caller: Caller) -> PromotionFacts:
    """See the contract."""
    row = work.session.one_or_none(
        _facts(caller),
        {
            "model_rid": wanted.model_rid,
            "branch": wanted.branch,
            # No RID is empty.
            "source_rid": wanted.source_rid or "",
            "rules": wanted.rules,
        }
        | principals(caller),
    )
    if row is None or row.role is None:
        return PromotionFacts(None, None, BranchEnd(1, None), None, work.clock_ms())
    return PromotionFacts(
        role=row.role,
        source=_source_of(work, wanted, row),
        branch=_branch_end(work, row),
        verdict=None if row.verdict_id is None else Verdict(row.verdict_id, row.error_count),
        yank=stopping_yank(work, row.suspect, caller),
        now_ms=work.clock_ms(),
    )


def lock_branches(
    work: UnitOfWork, branch_names: Collection[tuple[str, str]], caller: Caller, role: Role.ValueType
) -> None:
    """See the contract."""
    if not work.session.has_row_locks:
        return
    # In a group, those of the changes before are locked: to lock them again takes a tenth of a promotion.
    # Several are locked in one order, so that no two transactions deadlock; to be locked, a branch that is new needs a
    # row. A new branch that is the only one is left to `append_version`.
    is_only_one = len(branch_names) == 1
    lock = _lock_and_mark if is_only_one else _lock_or_make
    for model_rid, branch in sorted(set(branch_names) - work.session.extended):
        work.session.send(lock(caller), {"model_rid": model_rid, "branch": branch, "role": role} | principals(caller))
        work.is_marked |= is_only_one
    # In this order: what waits for a branch has decided nothing, and holds up no change.
    mark(work)


def find_verdict(work: UnitOfWork, comparison: Comparison) -> Verdict | None:
    """See the contract."""
    row = work.session.one_or_none(_verdict, comparison._asdict())
    return None if row is None else Verdict(row.id, row.error_count)


def add_verdict(work: UnitOfWork, comparison: Comparison, findings: Promotion) -> Verdict:
    """See the contract."""
    payload = findings.SerializeToString(deterministic=True)
    values = {"errors": findings.error_count, "findings": payload, "bytes": len(payload), "now_ms": work.clock_ms()}
    row = work.session.one(_add_verdict, values | comparison._asdict())
    return Verdict(row.id, findings.error_count)


def get_findings(work: UnitOfWork, verdict: Verdict) -> Promotion:
    """See the contract."""
    row = work.session.one_or_none(_findings, {"verdict_key": verdict.key})
    if row is None:  # It was removed since it was found.
        raise Conflict
    return Promotion.FromString(row.payload)


def unused_verdicts(work: UnitOfWork, age: timedelta) -> list[int]:
    """See the contract."""
    before_ms = work.clock_ms() - age // timedelta(milliseconds=1)
    return [row.id for row in work.session.all(_unused, {"before_ms": before_ms})]


def remove_unused_verdict(work: UnitOfWork, key: int) -> bool:
    """See the contract."""
    # A promotion that has just cited it, and is not committed, is waited for; then the database refuses to remove it,
    # which is a conflict.
    return bool(work.session.change(_remove_unused, {"verdict_key": key}))


def find_request(work: UnitOfWork, key: RequestKey) -> RequestRecord | None:
    """See the contract."""
    row = work.session.one_or_none(_request, _as_parameters(key))
    return None if row is None else RequestRecord(row.digest, tuple(row.results.split()))


def claim_request(work: UnitOfWork, key: RequestKey, request: RequestRecord) -> RequestRecord | None:
    """See the contract."""
    values = _as_parameters(key) | {
        "request_digest": request.digest,
        "made": " ".join(request.results),
        "now_ms": work.clock_ms(),
    }
    if work.session.one_or_none(_claim, values) is not None:
        return None
    # The COMMIT that carried it out may have been interrupted while it waited for a standby.
    work.session.wait_for_standbys()
    return find_request(work, key)


def _as_parameters(key: RequestKey) -> dict[str, Any]:
    return {"request_caller": key.caller, "request_rpc": key.rpc, "request_id": key.request_id}


def _source_of(work: UnitOfWork, wanted: WantedPromotion, row: AnyRow) -> StoredVersion | None:
    """Return the source, which is read only if it is visible, and only if it was not read before."""
    if wanted.source_rid is None or row.source_key is None:
        return None
    source = work.versions.get(wanted.source_rid) or get_version(work, row.source_key)
    return source._replace(hides_root=True) if row.hides_root else source


def _branch_end(work: UnitOfWork, row: AnyRow) -> BranchEnd:
    head = None if row.head_rid is None else Head(row.head_rid, row.head_digest, row.head_created_time)
    policies = policies_of(row)
    if row.policy_key is not None and row.revision is None:
        policies[0].revision = revision_of(work, row.policy_key)
    return BranchEnd((row.version_count or 0) + 1, head, policies, row.branch_key, row.chain or BEGINNING)


def policies_of(row: AnyRow) -> tuple[BranchPolicy, ...]:
    """Return the policies of a branch, as a row has their columns: its own, and that of the folder if one was set."""
    of_branch = NO_POLICY
    if row.compatibility is not None:
        of_branch = stored_rules(row.rules, row.revision)
        of_branch.compatibility = row.compatibility
    if row.folder_revision is None:
        return (of_branch,)
    of_folder = stored_rules(row.folder_rules, row.folder_revision)
    of_folder.folder_rid = row.folder_rid
    return of_branch, of_folder


@for_callers
def _facts(caller: Caller) -> Select[*AnyColumns]:
    """All that decides a promotion, but for the content of its source; no row without the model."""
    policy = (
        select(_policies.c.id)
        .where(_policies.c.model_id == models.c.id, _policies.c.branch == bindparam("branch"))
        .order_by(_policies.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    folder_policy = (
        select(_of_folder.c.id)
        .where(_of_folder.c.folder_rid == models.c.parent_folder_rid, _of_folder.c.branch == bindparam("branch"))
        .order_by(_of_folder.c.revision.desc())
        .limit(1)
        .scalar_subquery()
    )
    source = (
        select(versions.c.id, versions.c.content_digest, hides_root(caller), suspect())
        .where(versions.c.id == visible_key(caller, bindparam("source_rid")))
        .subquery("source")
    )
    is_verdict = and_(
        verdicts.c.head_digest == versions.c.content_digest,
        verdicts.c.candidate_digest == source.c.content_digest,
        verdicts.c.rules == bindparam("rules"),
    )
    return (
        select(
            role_on_model(caller).label("role"),
            source.c.id.label("source_key"),
            source.c.hides_root,
            source.c.suspect,
            branches.c.id.label("branch_key"),
            branches.c.version_count,
            branches.c.chain,
            versions.c.rid.label("head_rid"),
            versions.c.content_digest.label("head_digest"),
            versions.c.created_time.label("head_created_time"),
            branch_policies.c.compatibility,
            branch_policies.c.rules,
            branch_policies.c.id.label("policy_key"),
            branch_policies.c.revision,
            folder_branch_policies.c.folder_rid,
            folder_branch_policies.c.rules.label("folder_rules"),
            folder_branch_policies.c.revision.label("folder_revision"),
            verdicts.c.id.label("verdict_id"),
            verdicts.c.error_count,
        )
        .select_from(models)
        .outerjoin(branches, and_(branches.c.model_id == models.c.id, branches.c.name == bindparam("branch")))
        .outerjoin(versions, is_head)
        .outerjoin(branch_policies, branch_policies.c.id == policy)
        .outerjoin(folder_branch_policies, folder_branch_policies.c.id == folder_policy)
        .outerjoin(source, true())
        .outerjoin(verdicts, is_verdict)
        .where(models.c.rid == bindparam("model_rid"))
        # The same verdict may be stored twice.
        .limit(1)
    )


@for_callers
def _lock_and_mark(caller: Caller) -> Select[*AnyColumns]:
    """Both in one statement, since a statement of its own takes a fiftieth of a promotion."""
    return marking_after(
        select(branches.c.id)
        .join_from(branches, models)
        .where(
            models.c.rid == bindparam("model_rid"),
            branches.c.name == bindparam("branch"),
            role_on_model(caller) >= bindparam("role"),
        )
        .with_for_update(of=branches)
    )


@for_callers
def _lock_or_make(caller: Caller) -> Callable[[Dialect], Any]:
    new = select(models.c.id, bindparam("branch", type_=branches.c.name.type), literal(0)).where(
        models.c.rid == bindparam("model_rid"), role_on_model(caller) >= bindparam("role")
    )
    return lambda dialect: (
        upsert(dialect, branches)
        .from_select([branches.c.model_id, branches.c.name, branches.c.version_count], new)
        .on_conflict_do_update(
            index_elements=[branches.c.model_id, branches.c.name],
            set_={"version_count": branches.c.version_count},
        )
    )


_verdict = Statement(
    select(verdicts.c.id, verdicts.c.error_count)
    .where(*(verdicts.c[name] == bindparam(name) for name in Comparison._fields))
    .limit(1)
)
_findings = Statement(select(verdicts.c.payload).where(verdicts.c.id == bindparam("verdict_key")))
_add_verdict = Statement(
    insert(verdicts)
    .values(
        **{name: bindparam(name) for name in Comparison._fields},
        error_count=bindparam("errors"),
        payload=bindparam("findings"),
        size=bindparam("bytes"),
        created_time=bindparam("now_ms"),
    )
    .returning(verdicts.c.id)
)
_is_unused = ~exists().where(promotions.c.verdict_id == verdicts.c.id)
_unused = Statement(select(verdicts.c.id).where(verdicts.c.created_time < bindparam("before_ms"), _is_unused))
_remove_unused = Statement(delete(verdicts).where(verdicts.c.id == bindparam("verdict_key"), _is_unused))
_is_request = (
    requests.c.caller == bindparam("request_caller"),
    requests.c.rpc == bindparam("request_rpc"),
    requests.c.request_id == bindparam("request_id"),
)
_request = Statement(select(requests.c.digest, requests.c.results).where(*_is_request))
# Has a row only if the request is claimed for the first time.
_claim = Statement(
    lambda dialect: (
        upsert(dialect, requests)
        .values(
            caller=bindparam("request_caller"),
            rpc=bindparam("request_rpc"),
            request_id=bindparam("request_id"),
            digest=bindparam("request_digest"),
            results=bindparam("made"),
            created_time=bindparam("now_ms"),
        )
        .on_conflict_do_nothing()
        .returning(requests.c.digest)
    )
)
