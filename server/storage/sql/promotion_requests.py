"""Requests for promotion and for changes of policies, and their reviews: what the contract asks and changes of them.

A page of requests is first chosen, from their table alone and along one of its indexes, and then read with all that is
said of each, as in `promotion_records`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, and_, bindparam, func, insert, or_, select, true, update
from sqlalchemy.engine import Dialect

from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_STATE_EXPIRED,
    PROMOTION_REQUEST_STATE_OPEN,
    PROMOTION_REQUEST_STATE_PROMOTED,
    PROMOTION_REQUEST_STATE_WITHDRAWN,
    PolicyChange,
    PromotionRequest,
    PromotionRequestState,
    PromotionReview,
)
from server.core.caller import Caller
from server.core.event_types import EventType
from server.storage.contract import PromotionRequestFilter, StoredRequest
from server.storage.paging import Page, PageRequest
from server.storage.sql.branch_policies import REVISION
from server.storage.sql.cursors import Cursors
from server.storage.sql.event_log import add_event
from server.storage.sql.origins import version_is_visible
from server.storage.sql.principals import is_disabled_principal
from server.storage.sql.promotion_facts import policies_of
from server.storage.sql.rows import AnyColumns, AnyRow, timestamp
from server.storage.sql.session import Conflict
from server.storage.sql.statements import Statement, for_callers, forms, numbered, padded, principals, several
from server.storage.sql.tables import (
    branch_policies,
    branches,
    folder_branch_policies,
    grants,
    model_id,
    models,
    opaque_keys,
    promotion_requests,
    promotion_reviews,
    versions,
)
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.visibility import (
    MAX_NAMED,
    first_of_each,
    has_role_on,
    model_is_visible,
    visible_folders,
    visible_model_keys,
)
from server.storage.sql.walks import first_wanted

# The newest of a request; more than a policy can want.
MAX_REVIEWS = 100

# Behind every key: where the list begins, since the newest are first.
_BEHIND_ALL = 2**63 - 1

# What a closed request is told as.
_CLOSED = {
    PROMOTION_REQUEST_STATE_PROMOTED: EventType.REQUEST_PROMOTED,
    PROMOTION_REQUEST_STATE_WITHDRAWN: EventType.REQUEST_WITHDRAWN,
    PROMOTION_REQUEST_STATE_EXPIRED: EventType.REQUEST_EXPIRED,
}
# What is told of a request as of now.
_OF_NOW = {"head_version_rid", "approvals", "reviews", "policy_revision"}

_policies = branch_policies.alias("policies")
_of_folder = folder_branch_policies.alias("of_folder")


def find_promotion_request(work: UnitOfWork, promotion_request_rid: str, caller: Caller) -> StoredRequest | None:
    """See the contract."""
    row = work.session.one_or_none(_one(caller), {"request_rid": promotion_request_rid} | principals(caller))
    if row is None:
        return None
    return _to_stored(row, work.session.all(_reviews_of_one, {"request_key": row.id}))


def find_open_request(work: UnitOfWork, model_rid: str, branch: str, source_rid: str) -> PromotionRequest | None:
    """See the contract."""
    place = {"model_rid": model_rid, "branch_name": branch, "source": source_rid}
    row = work.session.one_or_none(_open, place)
    if row is None:
        return None
    return _to_request(row, work.session.all(_reviews_of_one, {"request_key": row.id}))


def find_open_change(work: UnitOfWork, change: PolicyChange) -> PromotionRequest | None:
    """See the contract."""
    row = work.session.one_or_none(_open_change, {"digest": _digest(change)})
    if row is None:
        return None
    return _to_request(row, work.session.all(_reviews_of_one, {"request_key": row.id}))


def list_promotion_requests(
    work: UnitOfWork, caller: Caller, wanted: PromotionRequestFilter, page: PageRequest
) -> Page[StoredRequest]:
    """See the contract."""
    known = work.session.one(_keys(caller), {"model_rid": wanted.model_rid} | principals(caller))
    cursors = Cursors(known.secret)
    before = _BEHIND_ALL if page.after is None else cursors.numbers(page.after)[1]
    if wanted.model_rid is not None and known.model is None:
        return Page([], None)
    keys = _choose(work, caller, wanted, known.model, before, page.size + 1)
    if not keys:
        return Page([], None)
    listed = keys[: page.size]
    named = padded([*listed])
    rows = work.session.all(_several(caller, len(named)), numbered("key", named) | principals(caller))
    reviews: dict[int, list[AnyRow]] = defaultdict(list)
    for row in work.session.all(_reviews_of_each(len(named)), numbered("key", named)):
        reviews[row.request_id].append(row)
    rows = sorted(rows, key=lambda row: -row.id)
    items = [
        _to_stored(row, reviews[row.id])._replace(position=position)
        for row, position in zip(rows, cursors.positions(0, [row.id for row in rows]), strict=True)
    ]
    return Page(items, items[-1].position if len(listed) < len(keys) else None)


def add_promotion_request(work: UnitOfWork, request: PromotionRequest) -> PromotionRequest:
    """See the contract."""
    stored = PromotionRequest()
    stored.CopyFrom(request)
    stored.state = PROMOTION_REQUEST_STATE_OPEN
    change = stored.policy_change if stored.HasField("policy_change") else None
    values = {
        "request_rid": stored.rid,
        "request_kind": stored.kind,
        "model_rid": stored.model_rid,
        "branch_name": stored.branch,
        "source_model": stored.source_model_rid if change is None else None,
        "source": stored.source_model_version_rid if change is None else None,
        "digest": bytes.fromhex(stored.content_digest) if change is None else None,
        "head": stored.requested_head_version_rid if stored.HasField("requested_head_version_rid") else None,
        "errors": stored.error_count,
        "warnings": stored.warning_count,
        "given_reason": stored.reason if stored.HasField("reason") else None,
        "requester": stored.requested_by,
        "now_ms": stored.created_time.ToMilliseconds(),
        "expire_ms": stored.expire_time.ToMilliseconds(),
        "changed": None if change is None else _serialized(change),
        "changed_digest": None if change is None else _digest(change),
        "changed_folder": stored.folder_rid if stored.HasField("folder_rid") else None,
    }
    work.session.send(_add, values)
    _tell(work, EventType.REQUEST_CREATED, stored, stored.requested_by)
    return stored


def lock_promotion_request(work: UnitOfWork, promotion_request_rid: str) -> None:
    """See the contract."""
    if work.session.has_row_locks:
        work.session.send(_lock, {"request_rid": promotion_request_rid})


def add_review(work: UnitOfWork, request: PromotionRequest, review: PromotionReview) -> None:
    """See the contract."""
    now_ms = work.clock_ms()
    values = {
        "request_rid": request.rid,
        "given_verdict": review.verdict,
        "reviewer": review.reviewed_by,
        "under": "\n".join(review.principals),
        "head": review.head_version_rid if review.HasField("head_version_rid") else None,
        "said": review.comment if review.HasField("comment") else None,
        "now_ms": now_ms,
        "revision": review.policy_revision if review.HasField("policy_revision") else None,
    }
    work.session.send(_add_review, values)
    said = PromotionReview(created_time=timestamp(now_ms))
    said.MergeFrom(review)
    _tell(work, EventType.REQUEST_REVIEWED, request, review.reviewed_by, now_ms, reviews=[said])


def close_promotion_request(
    work: UnitOfWork,
    request: PromotionRequest,
    state: PromotionRequestState.ValueType,
    closed_by: str | None,
    promotion_rid: str | None = None,
    version_rid: str | None = None,
    made_revision: int | None = None,
) -> None:
    """See the contract."""
    now_ms = work.clock_ms()
    values = {
        "request_rid": request.rid,
        "end": state,
        "closer": closed_by,
        "now_ms": now_ms,
        "promotion": promotion_rid,
        "made": version_rid,
        "revision": made_revision,
    }
    if work.session.change(_close, values) != 1:
        raise Conflict
    # What rejects a request is told as the review that it is.
    if (type_ := _CLOSED.get(state)) is not None:
        closed = {
            "state": state,
            "closed_by": closed_by,
            "closed_time": timestamp(now_ms),
            "promotion_rid": promotion_rid,
            "model_version_rid": version_rid,
            "made_policy_revision": made_revision,
        }
        _tell(work, type_, request, closed_by or "", now_ms, **closed)


def _tell(
    work: UnitOfWork,
    type_: EventType,
    request: PromotionRequest,
    actor: str,
    now_ms: int | None = None,
    **changed: Any,
) -> None:
    """Write the event of a request that was stored, or changed in this way; without what depends on what holds now."""
    event = Event()
    told = event.subject.promotion_request
    told.MergeFrom(PromotionRequest(**changed))
    stays = PromotionRequest()
    stays.CopyFrom(request)
    for name in _OF_NOW | changed.keys():
        stays.ClearField(name)  # type: ignore[arg-type]
    told.MergeFrom(stays)
    if told.HasField("model_version_rid"):
        event.model_version_rid = told.model_version_rid
    add_event(
        work,
        type_,
        event,
        about=request.folder_rid or request.model_rid,
        branch=request.branch,
        actor=actor,
        time=request.created_time if now_ms is None else now_ms,
    )


def _choose(
    work: UnitOfWork, caller: Caller, wanted: PromotionRequestFilter, model_key: int | None, before: int, count: int
) -> Sequence[int]:
    """Return the keys of the first wanted requests behind one, newest first, and so many at most."""
    equal = tuple(name for name in ("branch", "requested_by", "closed_as") if getattr(wanted, name) is not None)
    form = _Form(model_key is not None, wanted.is_open, equal, by_sight=model_key is None and not caller.is_admin)
    values = {name: getattr(wanted, name) for name in equal} | {"model_key": model_key} | principals(caller)

    def look(place: int, many: int) -> Sequence[AnyRow]:
        return work.session.all(_look(caller, form), values | {"before": place, "count": many})

    def of_few(place: int, lacking: int) -> Sequence[AnyRow] | None:
        seen, folders = visible_model_keys(work.session, caller), visible_folders(work.session, caller)
        if not max(len(seen), len(folders)) < MAX_NAMED:
            return None
        places = values | {"before": place, "count": lacking}
        found = {
            *_newest_in(work, _newest_of_each, caller, form, "model", seen, places),
            *_newest_in(work, _newest_of_folders, caller, form, "folder", folders, places),
        }
        return sorted(found, key=lambda row: -row.id)

    rows = first_wanted(
        look,
        before,
        count,
        place_of=lambda row: row.id,
        has_checks=form.has_checks,
        of_few=of_few if form.by_sight else None,
    )
    return [row.id for row in rows]


def _newest_in(
    work: UnitOfWork,
    statement: Callable[[Caller, _Form, int], Statement],
    caller: Caller,
    form: _Form,
    name: str,
    places: Sequence[Any],
    values: dict[str, Any],
) -> Sequence[AnyRow]:
    """Return the first wanted requests of some models or folders."""
    if not places:
        return []
    named = padded([*places])
    return work.session.all(statement(caller, form, len(named)), values | numbered(name, named))


class _Form(NamedTuple):
    """The form of a statement that walks through requests: its conditions, but for their values.

    It walks through those of a model or through all, and perhaps only through those that are not closed. Each row is
    asked for the columns that are `equal` to something, and `by_sight` whether the caller sees its model.
    """

    of_model: bool
    is_open: bool
    equal: tuple[str, ...]
    by_sight: bool

    @property
    def has_checks(self) -> bool:
        return self.by_sight or bool(self.equal)


@for_callers
def _keys(caller: Caller) -> Select[*AnyColumns]:
    """The key of the model that is asked for; NULL if the caller sees none."""
    model = select(models.c.id).where(models.c.rid == bindparam("model_rid"), model_is_visible(caller))
    return select(opaque_keys.c.key.label("secret"), model.scalar_subquery().label("model"))


@for_callers
def _look(caller: Caller, form: _Form) -> Select[*AnyColumns]:
    """The first requests behind one, and whether each passes the checks."""
    model = bindparam("model_key", type_=BigInteger) if form.of_model else None
    return _walked(form, model).add_columns(and_(true(), *_checks(caller, form)).label("is_wanted"))


@for_callers
def _newest_of_each(caller: Caller, form: _Form, model_count: int) -> Callable[[Dialect], Select[*AnyColumns]]:
    """The first wanted requests behind one of some models that the caller sees: those of each, then of all."""
    checks = _checks(caller, form._replace(by_sight=False))

    def build(dialect: Dialect) -> Select[*AnyColumns]:
        of_one = _walked(form, models.c.id).where(*checks)
        found, each = first_of_each(dialect, models, of_one, promotion_requests.c.id)
        query = select(each.c.id).select_from(found).where(models.c.id.in_(several("model", model_count)))
        return query.order_by(each.c.id.desc()).limit(bindparam("count"))

    return build


@for_callers
def _newest_of_folders(caller: Caller, form: _Form, folder_count: int) -> Callable[[Dialect], Select[*AnyColumns]]:
    """The first wanted requests behind one for the policies of some folders on which the caller has a role."""
    columns = promotion_requests.c
    of_one = (
        _walked(form, None)
        .where(columns.change_folder_rid == grants.c.resource_rid, *_checks(caller, form._replace(by_sight=False)))
        .order_by(None)
        .order_by(columns.change_folder_rid.desc(), columns.id.desc())
    )

    def build(dialect: Dialect) -> Select[*AnyColumns]:
        found, each = first_of_each(dialect, grants, of_one, columns.id)
        is_granted = grants.c.principal.in_(caller.principals)
        # Several of the caller's principals may have a role on one folder.
        query = select(each.c.id).distinct().select_from(found)
        return (
            query.where(grants.c.resource_rid.in_(several("folder", folder_count)), is_granted)
            .order_by(each.c.id.desc())
            .limit(bindparam("count"))
        )

    return build


def _walked(form: _Form, model: ColumnElement[Any] | None) -> Select[*AnyColumns]:
    columns = promotion_requests.c
    bounds: list[ColumnElement[bool]] = [columns.id < bindparam("before", type_=BigInteger)]
    order: list[ColumnElement[Any]] = [columns.id.desc()]
    if model is not None:
        bounds.append(columns.model_id == model)
        order.insert(0, columns.model_id.desc())
    if form.is_open:
        bounds.append(columns.closed_as.is_(None))
    return select(columns.id).where(*bounds).order_by(*order).limit(bindparam("count"))


def _checks(caller: Caller, form: _Form) -> list[ColumnElement[bool]]:
    checks: list[ColumnElement[bool]] = []
    for name in form.equal:
        column = promotion_requests.c[name]
        checks.append(and_(column.is_not(None), column == bindparam(name)))
    if form.by_sight:
        target = select(model_is_visible(caller)).where(models.c.id == promotion_requests.c.model_id)
        checks.append(or_(target.scalar_subquery(), has_role_on(caller, promotion_requests.c.change_folder_rid)))
    return checks


@for_callers
def _one(caller: Caller) -> Select[*AnyColumns]:
    is_visible = or_(model_is_visible(caller), has_role_on(caller, promotion_requests.c.change_folder_rid))
    return _requests(caller).where(promotion_requests.c.rid == bindparam("request_rid"), is_visible)


@for_callers
def _several(caller: Caller, count: int) -> Select[*AnyColumns]:
    return _requests(caller).where(promotion_requests.c.id.in_(several("key", count)))


def _requests(caller: Caller) -> Select[*AnyColumns]:
    """Return the query for requests, with what decides their state, of a caller who may see their target or folder."""
    policy = (
        select(_policies.c.id)
        .where(_policies.c.model_id == promotion_requests.c.model_id, _policies.c.branch == promotion_requests.c.branch)
        .order_by(_policies.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    folder_policy = (
        select(_of_folder.c.id)
        .where(
            _of_folder.c.folder_rid
            == func.coalesce(models.c.parent_folder_rid, promotion_requests.c.change_folder_rid),
            _of_folder.c.branch == promotion_requests.c.branch,
        )
        .order_by(_of_folder.c.revision.desc())
        .limit(1)
        .scalar_subquery()
    )
    head = (
        select(versions.c.rid)
        .join_from(branches, versions, and_(versions.c.branch_id == branches.c.id))
        .where(
            branches.c.model_id == promotion_requests.c.model_id,
            branches.c.name == promotion_requests.c.branch,
            versions.c.version_number == branches.c.version_count,
        )
        .scalar_subquery()
    )
    return (
        select(
            promotion_requests,
            models.c.rid.label("model_rid"),
            version_is_visible(caller, promotion_requests.c.source_rid).label("source_is_visible"),
            head.label("now_head_rid"),
            branch_policies.c.compatibility,
            branch_policies.c.rules,
            REVISION.label("revision"),
            folder_branch_policies.c.folder_rid,
            folder_branch_policies.c.rules.label("folder_rules"),
            folder_branch_policies.c.revision.label("folder_revision"),
        )
        .outerjoin_from(promotion_requests, models, models.c.id == promotion_requests.c.model_id)
        .outerjoin(branch_policies, branch_policies.c.id == policy)
        .outerjoin(folder_branch_policies, folder_branch_policies.c.id == folder_policy)
    )


_newest_reviews = (
    select(promotion_reviews, is_disabled_principal(promotion_reviews.c.reviewed_by).label("of_disabled"))
    .where(promotion_reviews.c.request_id == bindparam("request_key"))
    .order_by(promotion_reviews.c.id.desc())
    .limit(MAX_REVIEWS)
)
_reviews_of_one = Statement(_newest_reviews)


@forms
def _reviews_of_each(count: int) -> Callable[[Dialect], Select[*AnyColumns]]:
    """The newest reviews of some requests, without their words."""
    newest = (
        select(promotion_reviews)
        .where(promotion_reviews.c.request_id == promotion_requests.c.id)
        .order_by(promotion_reviews.c.id.desc())
        .limit(MAX_REVIEWS)
    )

    def build(dialect: Dialect) -> Select[*AnyColumns]:
        found, each = first_of_each(dialect, promotion_requests, newest, promotion_reviews.c.id)
        columns = (each.c[column.name] for column in promotion_reviews.c if column.name != "comment")
        of_disabled = is_disabled_principal(each.c.reviewed_by).label("of_disabled")
        query = (
            select(*columns, of_disabled).select_from(found).where(promotion_requests.c.id.in_(several("key", count)))
        )
        return query.order_by(each.c.id.desc())

    return build


_open = Statement(
    select(promotion_requests, models.c.rid.label("model_rid"))
    .join_from(promotion_requests, models, models.c.id == promotion_requests.c.model_id)
    .where(
        models.c.rid == bindparam("model_rid"),
        promotion_requests.c.branch == bindparam("branch_name"),
        promotion_requests.c.source_rid == bindparam("source"),
        promotion_requests.c.closed_as.is_(None),
    )
)
_open_change = Statement(
    select(promotion_requests, models.c.rid.label("model_rid"))
    .outerjoin_from(promotion_requests, models, models.c.id == promotion_requests.c.model_id)
    .where(promotion_requests.c.change_digest == bindparam("digest"), promotion_requests.c.closed_as.is_(None))
)
_lock = Statement(
    select(promotion_requests.c.id)
    .where(promotion_requests.c.rid == bindparam("request_rid"), promotion_requests.c.closed_as.is_(None))
    .with_for_update()
)
_add = Statement(
    insert(promotion_requests).values(
        rid=bindparam("request_rid"),
        kind=bindparam("request_kind"),
        model_id=model_id(bindparam("model_rid")),
        branch=bindparam("branch_name"),
        source_model_rid=bindparam("source_model"),
        source_rid=bindparam("source"),
        content_digest=bindparam("digest"),
        head_rid=bindparam("head"),
        error_count=bindparam("errors"),
        warning_count=bindparam("warnings"),
        reason=bindparam("given_reason"),
        requested_by=bindparam("requester"),
        created_time=bindparam("now_ms"),
        expire_time=bindparam("expire_ms"),
        change=bindparam("changed"),
        change_digest=bindparam("changed_digest"),
        change_folder_rid=bindparam("changed_folder"),
    )
)
_add_review = Statement(
    insert(promotion_reviews).values(
        request_id=select(promotion_requests.c.id)
        .where(promotion_requests.c.rid == bindparam("request_rid"))
        .scalar_subquery(),
        verdict=bindparam("given_verdict"),
        reviewed_by=bindparam("reviewer"),
        principals=bindparam("under"),
        head_rid=bindparam("head"),
        comment=bindparam("said"),
        created_time=bindparam("now_ms"),
        policy_revision=bindparam("revision"),
    )
)
_close = Statement(
    update(promotion_requests)
    .where(promotion_requests.c.rid == bindparam("request_rid"), promotion_requests.c.closed_as.is_(None))
    .values(
        closed_as=bindparam("end"),
        closed_by=bindparam("closer"),
        closed_time=bindparam("now_ms"),
        promotion_rid=bindparam("promotion"),
        version_rid=bindparam("made"),
        made_revision=bindparam("revision"),
    )
)


def _serialized(change: PolicyChange) -> bytes:
    return change.SerializeToString(deterministic=True)


def _digest(change: PolicyChange) -> bytes:
    return hashlib.sha256(_serialized(change)).digest()


def _to_stored(row: AnyRow, reviews: Sequence[AnyRow]) -> StoredRequest:
    policies = policies_of(row)
    if row.change is None:
        return StoredRequest(_to_request(row, reviews, row.source_is_visible), policies, row.now_head_rid)
    # That of the folder is the last one.
    changed = policies[0] if row.change_folder_rid is None else policies[-1]
    return StoredRequest(_to_request(row, reviews), (changed,), None)


def _to_request(row: AnyRow, reviews: Sequence[AnyRow], source_is_visible: bool = True) -> PromotionRequest:
    request = PromotionRequest(
        rid=row.rid,
        kind=row.kind,
        model_rid=row.model_rid or "",
        branch=row.branch,
        requested_head_version_rid=row.head_rid,
        reason=row.reason,
        requested_by=row.requested_by,
        created_time=timestamp(row.created_time),
        state=PROMOTION_REQUEST_STATE_OPEN if row.closed_as is None else row.closed_as,
        expire_time=timestamp(row.expire_time),
        # They come with the newest first.
        reviews=[_to_review(review) for review in reversed(reviews)],
        closed_by=row.closed_by,
        closed_time=None if row.closed_time is None else timestamp(row.closed_time),
        promotion_rid=row.promotion_rid,
        model_version_rid=row.version_rid,
        folder_rid=row.change_folder_rid,
        policy_change=None if row.change is None else PolicyChange.FromString(row.change),
        made_policy_revision=row.made_revision,
    )
    if row.change is None and source_is_visible:
        request.source_model_rid = row.source_model_rid
        request.source_model_version_rid = row.source_rid
        request.content_digest = row.content_digest.hex()
        request.error_count, request.warning_count = row.error_count, row.warning_count
    return request


def _to_review(row: AnyRow) -> PromotionReview:
    return PromotionReview(
        reviewed_by=row.reviewed_by,
        # What a user says that is disabled is not worth anything meanwhile.
        principals=[] if row.of_disabled else row.principals.split("\n"),
        verdict=row.verdict,
        comment=getattr(row, "comment", None),
        head_version_rid=row.head_rid,
        created_time=timestamp(row.created_time),
        policy_revision=row.policy_revision,
    )
