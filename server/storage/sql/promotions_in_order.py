"""Promotions in the order of their keys, in which a reader who goes on from the last one misses none.

Their keys are drawn as those of events are, by transactions that are marked, and with the branch locked: see
`event_log`. So they follow the version numbers of a branch, and up to the settled one all are known. By time they are
not in an order that can be gone on from: a promotion has that of when it was decided, and an imported one its own.

A list goes along the keys, of a model or of all, and asks each promotion for whatever else is wanted; but the one that
made a version is found by that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, and_, bindparam, select, true, tuple_
from sqlalchemy.engine import Dialect

from modelregistry.v1.promotion_pb2 import Promotion
from server.core.caller import Caller
from server.core.errors import InvalidPageToken, StorageUnavailable
from server.storage.contract import LogEnd, PromotionFilter
from server.storage.paging import Page, PageRequest
from server.storage.sql.cursors import PromotionCursors
from server.storage.sql.promotion_records import (
    can_pass,
    checks_of_each,
    known_keys,
    promotions_of_keys,
    promotions_that_fit,
)
from server.storage.sql.rows import AnyRow
from server.storage.sql.session import Session
from server.storage.sql.statements import Statement, for_callers, numbered, padded, principals, several
from server.storage.sql.tables import models, promotions
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.visibility import MAX_NAMED, first_of_each, visible_model_keys
from server.storage.sql.walks import first_wanted


def newest_promotion(session: Session) -> LogEnd:
    """Return the newest promotion that is committed."""
    newest = session.one_or_none(_newest)
    return LogEnd() if newest is None else LogEnd(newest.id, newest.rid)


def list_promotions_in_order(
    work: UnitOfWork, caller: Caller, wanted: PromotionFilter, settled: LogEnd, page: PageRequest
) -> Page[Promotion]:
    """See the contract."""
    session = work.session
    known = known_keys(session, caller, wanted)
    cursors = PromotionCursors(known.secret)
    after = 0 if page.after is None else _place(session, cursors, str(page.after))
    if _rid_of(session, settled.key) != settled.name:
        # Another database has told of it: see `require_event`.
        raise StorageUnavailable
    chosen: Sequence[AnyRow] = ()
    if can_pass(wanted, known):
        chosen = _choose(session, caller, _walk_of(caller, wanted, known, settled.key), after, page.size + 1)
    listed: list[Promotion] = []
    if chosen:
        keys = padded([row.id for row in chosen[: page.size]])
        rows = session.all(_several(caller, len(keys)), numbered("key", keys) | principals(caller))
        listed = promotions_that_fit(work, rows)
    if len(listed) < len(chosen):
        end, rid = chosen[len(listed) - 1].id, listed[-1].rid
    else:
        end = max(after, settled.key)
        rid = _rid_of(session, end)
    return Page(listed, cursors.cursor(end, rid))


class _Form(NamedTuple):
    """The form of a statement that walks through promotions: its conditions, but for their values.

    `along_model` is whether it walks along the promotions into one model, `of_version` whether to the one that made a
    version; `checked` are the columns that have a value.
    """

    along_model: bool
    of_version: bool
    checked: tuple[str, ...]
    by_branch: bool
    is_since: bool
    is_until: bool
    by_sight: bool

    @property
    def has_checks(self) -> bool:
        """Whether not every promotion that is met is wanted."""
        return any(self[2:])


class _Walk(NamedTuple):
    """A walk through promotions: its form, its values, and whether few models of the caller may be looked into."""

    form: _Form
    values: dict[str, Any]
    in_visible_models: bool


def _walk_of(caller: Caller, wanted: PromotionFilter, known: AnyRow, settled: int) -> _Walk:
    checked = {"source_rid": wanted.source_rid, "created_by": wanted.created_by}
    form = _Form(
        along_model=known.model is not None,
        of_version=known.version is not None,
        checked=tuple(column for column, value in checked.items() if value is not None),
        by_branch=wanted.branch is not None,
        is_since=wanted.since_ms is not None,
        is_until=wanted.until_ms is not None,
        by_sight=not caller.is_admin and known.model is None,
    )
    values = {
        **checked,
        "version_id": known.version,
        "model_id": known.model,
        "branch": wanted.branch,
        "since_ms": wanted.since_ms,
        "until_ms": wanted.until_ms,
        "up_to": settled,
        **principals(caller),
    }
    return _Walk(form, values, in_visible_models=form.by_sight)


def _choose(session: Session, caller: Caller, walk: _Walk, after: int, count: int) -> Sequence[AnyRow]:
    """Return the keys of the first wanted promotions behind one, and so many at most."""

    def look(place: int, many: int) -> Sequence[AnyRow]:
        return session.all(_look(caller, walk.form), walk.values | {"after": place, "count": many})

    def of_few(place: int, lacking: int) -> Sequence[AnyRow] | None:
        models_seen = visible_model_keys(session, caller)
        if not len(models_seen) < MAX_NAMED:
            return None
        if not models_seen:
            return []
        keys = padded([*models_seen])
        parameters = walk.values | numbered("model", keys) | {"after": place, "count": lacking}
        return session.all(_of_models(caller, walk.form, len(keys)), parameters)

    return first_wanted(
        look,
        after,
        count,
        place_of=lambda row: int(row.id),
        has_checks=walk.form.has_checks,
        of_few=of_few if walk.in_visible_models else None,
    )


def _place(session: Session, cursors: PromotionCursors, position: str) -> int:
    """Return the key of the promotion that a position is behind. Raises InvalidPageToken if that has another now."""
    key, part = cursors.place(position)
    # Without it, who goes on in a copy that was restored from a backup would miss what gets the keys once more.
    if not cursors.is_of(part, _rid_of(session, key)):
        raise InvalidPageToken(page_token=position)
    return key


def _rid_of(session: Session, key: int) -> str:
    row = session.one_or_none(_rid, {"key": key})
    return "" if row is None else row.rid


@for_callers
def _look(caller: Caller, form: _Form) -> Callable[[Dialect], Select[Any]]:
    """The first promotions behind a key, and whether each passes the checks."""
    is_wanted = and_(true(), *_checks(caller, form)).label("is_wanted")
    return lambda dialect: _walked(dialect, form).add_columns(is_wanted)


@for_callers
def _of_models(caller: Caller, form: _Form, model_count: int) -> Callable[[Dialect], Select[Any]]:
    """The first wanted promotions behind a key into some models: those of each, then of all."""

    def build(dialect: Dialect) -> Select[Any]:
        of_one = _walked(dialect, form._replace(along_model=True), models.c.id).where(*_checks(caller, form))
        found, each = first_of_each(dialect, models, of_one, promotions.c.id)
        query = select(each.c.id).select_from(found).where(models.c.id.in_(several("model", model_count)))
        return query.order_by(each.c.id).limit(bindparam("count"))

    return build


def _walked(dialect: Dialect, form: _Form, model: ColumnElement[Any] | None = None) -> Select[Any]:
    """The first promotions behind a key along the index; the model is a column if it is no parameter.

    How the range of the index is written, and why: `event_log`.
    """
    after, up_to = (bindparam(name, type_=BigInteger) for name in ("after", "up_to"))
    columns: list[ColumnElement[Any]] = [promotions.c.id]
    given: list[ColumnElement[Any]] = []
    if form.along_model:
        columns = [promotions.c.model_id, *columns]
        given = [bindparam("model_id", type_=BigInteger) if model is None else model]
    if dialect.name == "sqlite":
        bounds = [column == value for column, value in zip(columns, given, strict=False)]
        bounds += [promotions.c.id > after, promotions.c.id <= up_to]
    else:
        bounds = [tuple_(*columns) > tuple_(*given, after), tuple_(*columns) <= tuple_(*given, up_to)]
    if form.of_version:
        bounds.append(promotions.c.version_id == bindparam("version_id"))
    return select(promotions.c.id).where(*bounds).order_by(*columns).limit(bindparam("count"))


def _checks(caller: Caller, form: _Form) -> list[ColumnElement[bool]]:
    checks: list[ColumnElement[bool]] = [promotions.c[column] == bindparam(column) for column in form.checked]
    if form.is_since:
        checks.append(promotions.c.created_time >= bindparam("since_ms", type_=BigInteger))
    if form.is_until:
        checks.append(promotions.c.created_time < bindparam("until_ms", type_=BigInteger))
    return checks + checks_of_each(caller, by_branch=form.by_branch, by_sight=form.by_sight)


@for_callers
def _several(caller: Caller, count: int) -> Select[Any]:
    return promotions_of_keys(caller, count).order_by(promotions.c.id)


_newest = Statement(select(promotions.c.id, promotions.c.rid).order_by(promotions.c.id.desc()).limit(1))
_rid = Statement(select(promotions.c.rid).where(promotions.c.id == bindparam("key")))
