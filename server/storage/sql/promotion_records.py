"""The records of promotions.

A page of them is first chosen, from `promotions` alone and along one of its indexes, and then read with all that is
said of each. So no database can think of joining everything and sorting it, which it would do where it takes a page for
large, or a table for small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, and_, bindparam, insert, select, true, tuple_, update
from sqlalchemy.engine import Dialect

from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_ROLLBACK, Promotion
from server.core.caller import Caller
from server.core.event_types import EventType
from server.core.integrity import ChainedRecord, chain_hash
from server.storage.contract import BranchEnd, Promoted, PromotionFilter, Verdict
from server.storage.paging import Page, PageRequest
from server.storage.sql.cursors import Cursors
from server.storage.sql.decisions import mark
from server.storage.sql.origins import version_is_visible, visible_key
from server.storage.sql.pages import payloads, that_fit
from server.storage.sql.rows import AnyRow
from server.storage.sql.session import Session
from server.storage.sql.statements import Statement, for_callers, forms, numbered, padded, principals, several
from server.storage.sql.tables import branches, models, opaque_keys, promotions, verdicts, versions
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.versions import append_row, as_parameters, next_place, placed, tell_of_version
from server.storage.sql.visibility import MAX_NAMED, first_of_each, model_is_visible, visible_model_keys
from server.storage.sql.walks import first_wanted

_replaced = versions.alias("replaced")


# Where a walk through promotions is: behind one with this time and key.
_Place = tuple[int, int]


def append_promoted(
    work: UnitOfWork,
    version: ModelVersion,
    content_digest: bytes,
    promotion: Promotion,
    verdict: Verdict | None,
    branch: BranchEnd | None = None,
    *,
    was_imported: bool = False,
) -> Promoted:
    """See the contract."""
    place = next_place(work, version, branch)
    # Before its key is drawn: who waits for the promotions up to one with a greater key waits for this transaction.
    mark(work)
    stored = placed(work, version, place)
    of_version = as_parameters(work, version, stored, place, content_digest)
    reason = promotion.reason if promotion.HasField("reason") else None
    record = ChainedRecord(
        rid=promotion.rid,
        kind=promotion.kind,
        version_rid=stored.rid,
        model_rid=stored.model_rid,
        branch=stored.branch,
        version_number=place.number,
        source_model_rid=promotion.source_model_rid,
        source_rid=promotion.source_model_version_rid,
        content_digest=content_digest.hex(),
        reason=reason,
        created_ms=of_version["created_ms"],
        created_by=stored.created_by,
        policy_revision=promotion.policy_revision or None,
        folder_policy_revision=promotion.folder_policy_revision or None,
        promotion_request_rid=promotion.promotion_request_rid or None,
        override=promotion.override or None,
    )
    chain = chain_hash(place.chain, record)
    work.session.send(_set_end, {"branch_key": place.branch_key, "number": place.number, "chain_end": chain})
    append_row(work, of_version)
    work.session.send(
        _record,
        {
            "promotion_rid": promotion.rid,
            "promotion_kind": promotion.kind,
            "source_model": promotion.source_model_rid,
            "source_version": promotion.source_model_version_rid,
            "verdict_key": None if verdict is None else verdict.key,
            "given_reason": reason,
            "version": stored.rid,
            "chained_to": place.chain,
            "chain_end": chain,
            "imported": was_imported,
            "of_branch_policy": record.policy_revision,
            "of_folder_policy": record.folder_policy_revision,
            "of_request": record.promotion_request_rid,
            "overridden": record.override,
        },
    )
    type_ = EventType.BRANCH_ROLLED_BACK if promotion.kind == PROMOTION_KIND_ROLLBACK else EventType.VERSION_PROMOTED
    tell_of_version(work, type_, version, stored, _event_of(promotion, stored, branch))
    work.promoted.append(promotion.kind)
    work.promoted_ms = max(work.promoted_ms, record.created_ms)
    return Promoted(stored, chain)


def _event_of(promotion: Promotion, stored: ModelVersion, branch: BranchEnd | None) -> Event:
    """Return the event of a promotion, without what an event tells itself."""
    event = Event()
    told = event.subject.promotion
    told.CopyFrom(promotion)
    if not told.override:
        told.ClearField("override")
    told.version_number = stored.version_number
    told.created_by = stored.created_by
    told.created_time.CopyFrom(stored.created_time)
    if branch is not None and branch.head is not None:
        told.replaced_version_rid = branch.head.rid
    return event


def find_promotion(work: UnitOfWork, promotion_rid: str, caller: Caller) -> Promotion | None:
    """See the contract."""
    row = work.session.one_or_none(_one(caller), {"promotion_rid": promotion_rid} | principals(caller))
    return None if row is None else _with_findings(work, [_to_promotion(row)], [row])[0]


def get_promotion_rid(work: UnitOfWork, model_version_rid: str) -> str:
    """See the contract."""
    promotion_rid: str = work.session.one(_rid_of, {"version_rid": model_version_rid}).rid
    return promotion_rid


def list_promotions(work: UnitOfWork, caller: Caller, wanted: PromotionFilter, page: PageRequest) -> Page[Promotion]:
    """See the contract."""
    known = known_keys(work.session, caller, wanted)
    cursors = Cursors(known.secret)
    bounds = [] if page.after is None else [cursors.numbers(page.after)]
    if wanted.until_ms is not None:
        bounds.append((wanted.until_ms, 0))
    walk = _walk_of(caller, wanted, known)
    chosen = [] if walk is None else _choose(work.session, caller, walk, min(bounds, default=None), page.size + 1)
    if not chosen:
        return Page([], None)
    keys = padded([row.id for row in chosen[: page.size]])
    rows = work.session.all(_several(caller, len(keys)), numbered("key", keys) | principals(caller))
    listed = promotions_that_fit(work, rows)
    end = rows[len(listed) - 1]
    return Page(listed, cursors.position(end.created_time, end.id) if len(listed) < len(chosen) else None)


def promotions_that_fit(work: UnitOfWork, rows: Sequence[AnyRow]) -> list[Promotion]:
    """Return the promotions of the first rows of `promotions_of_keys`, as many as fit into a message together."""
    listed = [_to_promotion(row) for row in rows]
    sizes = (promotion.ByteSize() + (row.size or 0) for promotion, row in zip(listed, rows, strict=True))
    kept = that_fit(listed, sizes, work.fitting_bytes)
    return _with_findings(work, kept, rows[: len(kept)])


def _with_findings(work: UnitOfWork, listed: Sequence[Promotion], rows: Sequence[AnyRow]) -> list[Promotion]:
    """Return promotions, which are changed, with the findings that their rows refer to."""
    found = payloads(work.session, _verdicts, (row.verdict_id for row in rows))
    for promotion, row in zip(listed, rows, strict=True):
        if row.verdict_id is not None:
            promotion.MergeFromString(found[row.verdict_id].payload)
    return [*listed]


class _Form(NamedTuple):
    """The form of a statement that walks through promotions: its conditions, but for their values.

    `along` is the column by whose index it walks, `equal` are columns with a value, `by_branch` and `by_sight` ask for
    each promotion whether its branch is the one wanted, and whether the caller sees its model.
    """

    along: str | None
    equal: tuple[str, ...]
    by_branch: bool
    by_sight: bool
    is_since: bool
    is_after: bool = False

    @property
    def has_checks(self) -> bool:
        return self.by_branch or self.by_sight


class _Walk(NamedTuple):
    """A walk through promotions: its form, its values, and whether few models of the caller may be looked into."""

    form: _Form
    values: dict[str, Any]
    in_visible_models: bool


def known_keys(session: Session, caller: Caller, wanted: PromotionFilter) -> AnyRow:
    """Return the keys of what a filter names, None where the caller sees none; and the secret of positions."""
    row: AnyRow = session.one(_keys(caller), wanted._asdict() | principals(caller))
    return row


def can_pass(wanted: PromotionFilter, known: AnyRow) -> bool:
    """Whether the caller sees all that a filter names, so that a promotion can pass it."""
    return all(
        rid is None or key is not None
        for rid, key in (
            (wanted.model_rid, known.model),
            (wanted.version_rid, known.version),
            (wanted.source_rid, known.source),
        )
    )


def _walk_of(caller: Caller, wanted: PromotionFilter, known: AnyRow) -> _Walk | None:
    """Return the walk for a filter; None if no promotion can pass it."""
    if not can_pass(wanted, known):
        return None
    values = {
        "version_id": known.version,
        # Of these the first has the fewest promotions, as a rule. A version has a single one, without a walk.
        "source_rid": wanted.source_rid,
        "model_id": known.model,
        "created_by": wanted.created_by,
    }
    given = [column for column, value in values.items() if value is not None]
    along = given[0] if given and known.version is None else None
    form = _Form(
        along=along,
        equal=tuple(column for column in given if column != along),
        by_branch=wanted.branch is not None,
        by_sight=not caller.is_admin and wanted.model_rid is None,
        is_since=wanted.since_ms is not None,
    )
    in_visible_models = not caller.is_admin and (known.version, known.source, known.model) == (None, None, None)
    return _Walk(form, values | {"branch": wanted.branch, "since_ms": wanted.since_ms}, in_visible_models)


def _choose(session: Session, caller: Caller, walk: _Walk, after: _Place | None, count: int) -> Sequence[AnyRow]:
    """Return the first wanted promotions behind a place: id and time, newest first, and so many at most."""
    values = walk.values | principals(caller)

    def look(place: _Place | None, many: int) -> Sequence[AnyRow]:
        form = walk.form._replace(is_after=place is not None)
        return session.all(_look(caller, form), values | _as_parameters(place) | {"count": many})

    def of_few(place: _Place | None, lacking: int) -> Sequence[AnyRow] | None:
        models_seen = visible_model_keys(session, caller)
        if not len(models_seen) < MAX_NAMED:
            return None
        if not models_seen:
            return []
        keys = padded([*models_seen])
        named = numbered("model", keys) | {"count": lacking}
        form = walk.form._replace(is_after=True)
        return session.all(_newest_of_each(caller, form, len(keys)), values | _as_parameters(place) | named)

    return first_wanted(
        look,
        after,
        count,
        place_of=lambda row: (row.created_time, row.id),
        has_checks=walk.form.has_checks,
        of_few=of_few if walk.in_visible_models else None,
    )


def _as_parameters(after: _Place | None) -> dict[str, int]:
    return {} if after is None else {"after_ms": after[0], "after_id": after[1]}


@for_callers
def _keys(caller: Caller) -> Select[Any]:
    """The keys of the RIDs of a filter; NULL where there is nothing that the caller sees."""
    model = select(models.c.id).where(models.c.rid == bindparam("model_rid"), model_is_visible(caller))
    return select(
        opaque_keys.c.key.label("secret"),
        model.scalar_subquery().label("model"),
        visible_key(caller, bindparam("version_rid")).label("version"),
        visible_key(caller, bindparam("source_rid")).label("source"),
    )


@for_callers
def _look(caller: Caller, form: _Form) -> Select[Any]:
    """The first promotions behind a place along the index, and whether each passes the checks."""
    return _walked(form).add_columns(and_(true(), *_checks(caller, form)).label("is_wanted"))


@for_callers
def _newest_of_each(caller: Caller, form: _Form, model_count: int) -> Callable[[Dialect], Select[Any]]:
    """The first wanted promotions behind a place into some models: those of each, then of all."""

    def build(dialect: Dialect) -> Select[Any]:
        by = (*form.equal, form.along) if form.along else form.equal
        of_one = _walked(form._replace(along="model_id", equal=by), models.c.id).where(*_checks(caller, form))
        found, each = first_of_each(dialect, models, of_one, promotions.c.id)
        query = select(each.c.id, each.c.created_time).select_from(found)
        query = query.where(models.c.id.in_(several("model", model_count)))
        return query.order_by(each.c.created_time.desc(), each.c.id.desc()).limit(bindparam("count"))

    return build


def _checks(caller: Caller, form: _Form) -> list[ColumnElement[bool]]:
    return checks_of_each(caller, by_branch=form.by_branch, by_sight=form.by_sight)


def checks_of_each(caller: Caller, *, by_branch: bool, by_sight: bool) -> list[ColumnElement[bool]]:
    """What is asked of each promotion: whether the caller sees its model, and whether its branch is the wanted one."""
    # As subqueries for a row and not as joins: only then does PostgreSQL ask them of the rows in their order.
    checks: list[ColumnElement[bool]] = []
    if by_sight:
        target = select(model_is_visible(caller)).where(models.c.id == promotions.c.model_id)
        checks.append(target.scalar_subquery())
    if by_branch:
        made = select(branches.c.name).join_from(versions, branches).where(versions.c.id == promotions.c.version_id)
        checks.append(made.scalar_subquery() == bindparam("branch"))
    return checks


def _walked(form: _Form, along: ColumnElement[Any] | None = None) -> Select[Any]:
    """The first promotions behind a place along the index, newest first; `along` is its value if no parameter is.

    It is a range of the index's own columns in the index's own order. By an equal value and by time, PostgreSQL would
    rather walk through all promotions by time where it expects to meet many that are wanted.
    """
    columns: list[ColumnElement[Any]] = [promotions.c.created_time, promotions.c.id]
    bounds = [promotions.c[column] == bindparam(column) for column in form.equal]
    value: list[Any] = []
    if form.along is not None:
        columns = [promotions.c[form.along], *columns]
        value = [bindparam(form.along, type_=columns[0].type) if along is None else along]
    if form.is_since:
        bounds.append(tuple_(*columns[:-1]) >= tuple_(*value, bindparam("since_ms", type_=BigInteger)))
    elif value:
        bounds.append(columns[0] >= value[0])
    if form.is_after:
        place = (bindparam("after_ms", type_=BigInteger), bindparam("after_id", type_=BigInteger))
        bounds.append(tuple_(*columns) < tuple_(*value, *place))
    elif value:
        bounds.append(columns[0] <= value[0])
    query = select(promotions.c.id, promotions.c.created_time).where(*bounds)
    return query.order_by(*(column.desc() for column in columns)).limit(bindparam("count"))


@for_callers
def _one(caller: Caller) -> Select[Any]:
    return _promotions(caller).where(promotions.c.rid == bindparam("promotion_rid"), model_is_visible(caller))


@for_callers
def _several(caller: Caller, count: int) -> Select[Any]:
    """Promotions by their keys, newest first, with the size of the findings of each."""
    return promotions_of_keys(caller, count).order_by(promotions.c.created_time.desc(), promotions.c.id.desc())


def promotions_of_keys(caller: Caller, count: int) -> Select[Any]:
    """The query for promotions by their keys, with the size of the findings of each."""
    # Like the payload, not by a join.
    size = select(verdicts.c.size).where(verdicts.c.id == promotions.c.verdict_id).scalar_subquery()
    query = _promotions(caller).add_columns(promotions.c.id, size.label("size"))
    return query.where(promotions.c.id.in_(several("key", count)))


@forms
def _verdicts(count: int) -> Select[Any]:
    return select(verdicts.c.id, verdicts.c.payload).where(verdicts.c.id.in_(several("key", count)))


_given = {
    "rid": "promotion_rid",
    "kind": "promotion_kind",
    "source_model_rid": "source_model",
    "source_rid": "source_version",
    "verdict_id": "verdict_key",
    "reason": "given_reason",
    "previous_hash": "chained_to",
    "hash": "chain_end",
    "was_imported": "imported",
    "policy_revision": "of_branch_policy",
    "folder_policy_revision": "of_folder_policy",
    "promotion_request_rid": "of_request",
    "override": "overridden",
}
_made = {
    "version_id": versions.c.id,
    "model_id": branches.c.model_id,
    "created_time": versions.c.created_time,
    "created_by": versions.c.created_by,
}
_set_end = Statement(
    update(branches)
    .where(branches.c.id == bindparam("branch_key"))
    .values(version_count=bindparam("number"), chain=bindparam("chain_end"))
)
_record = Statement(
    insert(promotions).from_select(
        [*_given, *_made],
        select(*(bindparam(name, type_=promotions.c[column].type) for column, name in _given.items()), *_made.values())
        .join_from(versions, branches)
        .where(versions.c.rid == bindparam("version")),
    )
)
_rid_of = Statement(
    select(promotions.c.rid)
    .join(versions, versions.c.id == promotions.c.version_id)
    .where(versions.c.rid == bindparam("version_rid"))
)


def _promotions(caller: Caller) -> Select[Any]:
    """Return the query for promotions, with what a caller may see of each who may see its target."""
    # Not by a join, of which PostgreSQL expects more rows the larger the branches are, and plans the rest for them.
    replaced_rid = (
        select(_replaced.c.rid)
        .where(
            _replaced.c.branch_id == versions.c.branch_id,
            _replaced.c.version_number == versions.c.version_number - 1,
        )
        .scalar_subquery()
    )
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
            promotions.c.policy_revision,
            promotions.c.folder_policy_revision,
            promotions.c.promotion_request_rid,
            promotions.c.override,
            version_is_visible(caller, promotions.c.source_rid).label("source_is_visible"),
            models.c.rid.label("model_rid"),
            branches.c.name.label("branch"),
            versions.c.rid.label("version_rid"),
            versions.c.version_number,
            replaced_rid.label("replaced_rid"),
        )
        .join_from(promotions, versions, versions.c.id == promotions.c.version_id)
        .join(branches, branches.c.id == versions.c.branch_id)
        .join(models, models.c.id == promotions.c.model_id)
    )


def _to_promotion(row: AnyRow) -> Promotion:
    """Return the promotion of a row, without its findings."""
    promotion = Promotion(rid=row.rid, kind=row.kind)
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
    if row.policy_revision is not None:
        promotion.policy_revision = row.policy_revision
    if row.folder_policy_revision is not None:
        promotion.folder_policy_revision = row.folder_policy_revision
    if row.promotion_request_rid is not None:
        promotion.promotion_request_rid = row.promotion_request_rid
    if row.override:
        promotion.override = True
    return promotion
