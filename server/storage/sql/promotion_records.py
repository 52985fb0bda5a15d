"""Questions about the records of promotions, of `server.storage.contract`, as SQL.

A page of them is first chosen, from `promotions` alone and along one of its indexes, and then read with all that is
said of each. So no database can think of joining everything and sorting it, which it would do where it takes a page for
large, or a table for small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, func, select, true, tuple_

from modelregistry.v1.promotion_pb2 import Promotion
from server.core.caller import Caller
from server.storage.contract import PromotionFilter
from server.storage.paging import Page, PageRequest
from server.storage.sql.access import model_is_visible
from server.storage.sql.each import first_of_each
from server.storage.sql.fitting import that_fit, with_payloads
from server.storage.sql.lineage import SqlLineageReader
from server.storage.sql.model_lists import MANY, visible_model_keys
from server.storage.sql.opaque import Opaque
from server.storage.sql.rows import MAX_BYTES_A_CHARACTER, AnyRow
from server.storage.sql.tables import branches, models, opaque_keys, promotions, verdicts, versions

_replaced = versions.alias("replaced")
_source = versions.alias("source_version")
_source_branch = branches.alias("source_branch")
_source_model = models.alias("source_model")

# How much further than what is lacking a walk looks at first, and then each time than before; and how far at most.
_LOOK_AHEAD = 4
_FURTHEST_LOOK = 10_000

# What the fields add to the bytes of their values, and the fields of a fixed size, at most.
_OVERHEAD_BYTES = 160
# At most; rather than to look for it twice.
_REPLACED_RID_BYTES = 255


# Where a walk through promotions is: behind one with this time and key.
_Place = tuple[int, int]


class _Wanted(NamedTuple):
    """A filter in keys."""

    # The column whose index is walked along, all of which go on with time and key, and its value.
    along: tuple[ColumnElement[Any], Any] | None
    since_ms: int | None
    # What else the columns of a promotion must be, and what must be asked of each on the way.
    columns: list[ColumnElement[bool]]
    checks: list[ColumnElement[bool]]
    # Whether the caller's models are places to look, should these be few.
    in_visible_models: bool


class SqlPromotionRecordReader(SqlLineageReader):
    """Questions about the records of promotions."""

    def find_promotion(self, promotion_rid: str, caller: Caller) -> Promotion | None:
        """See the contract."""
        query = _promotions(caller).add_columns(verdicts.c.payload)
        query = query.outerjoin(verdicts, verdicts.c.id == promotions.c.verdict_id)
        row = self.connection.execute(
            query.where(promotions.c.rid == promotion_rid, model_is_visible(caller))
        ).one_or_none()
        return None if row is None else _to_promotion(row)

    def get_promotion_rid(self, model_version_rid: str) -> str:
        """See the contract."""
        query = select(promotions.c.rid).join(versions, versions.c.id == promotions.c.version_id)
        promotion_rid: str = self.connection.scalars(query.where(versions.c.rid == model_version_rid)).one()
        return promotion_rid

    def list_promotions(self, caller: Caller, wanted: PromotionFilter, page: PageRequest) -> Page[Promotion]:
        """See the contract."""
        known = self.connection.execute(_keys(caller, wanted)).one()
        opaque = Opaque(known.secret)
        behind = [] if page.after is None else [opaque.numbers(page.after)]
        if wanted.until_ms is not None:
            behind.append((wanted.until_ms, 0))
        in_keys = _in_keys(caller, wanted, known)
        chosen = [] if in_keys is None else self._choose(caller, in_keys, min(behind, default=None), page.size + 1)
        if not chosen:
            return Page([], None)
        query = _promotions(caller).add_columns(promotions.c.id, _promotion_bytes().label("size"))
        query = query.where(promotions.c.id.in_([row.id for row in chosen[: page.size]]))
        newest_first = with_payloads(
            query, verdicts, "verdict_id", lambda row: (row.created_time.desc(), row.id.desc())
        )
        rows = self.connection.execute(newest_first, {"most_bytes": self._fitting_bytes}).all()
        listed = that_fit(rows)
        following = opaque.position(listed[-1].created_time, listed[-1].id) if len(listed) < len(chosen) else None
        return Page([_to_promotion(row) for row in listed], following)

    def _choose(self, caller: Caller, wanted: _Wanted, after: _Place | None, count: int) -> Sequence[AnyRow]:
        """Return the first wanted promotions behind a position: id and time, newest first, and so many at most.

        Where something is asked of each, some more are looked at than are lacking, which does for most callers: they
        see most. It does not for one who sees few. If these are in few models, each of those is looked into for its
        newest ones, and nothing invisible is walked past. Otherwise the walk goes on, past what fails the checks; there
        may be much of it, which no index knows of.
        """
        chosen: list[AnyRow] = []
        look = _LOOK_AHEAD * count if wanted.checks else count
        while True:
            rows = self.connection.execute(_look(wanted, after, look)).all()
            chosen += [row for row in rows if row.is_wanted]
            if len(chosen) >= count or len(rows) < look:
                return chosen[:count]
            after = (rows[-1].created_time, rows[-1].id)
            if wanted.in_visible_models:
                visible = visible_model_keys(self.connection, caller)
                if len(visible) < MANY:
                    rest = self._newest_of_each(visible, wanted, after, count - len(chosen))
                    return [*chosen, *self.connection.execute(rest).all()]
                wanted = wanted._replace(in_visible_models=False)
            look = min(_LOOK_AHEAD * look, _FURTHEST_LOOK)

    def _newest_of_each(self, model_keys: Sequence[int], wanted: _Wanted, after: _Place, count: int) -> Select[Any]:
        """The query for the first wanted promotions behind a position into some models: those of each, then of all."""
        by = [] if wanted.along is None else [wanted.along[0] == wanted.along[1]]
        of_one = _walk(
            wanted._replace(along=(promotions.c.model_id, models.c.id), columns=[*wanted.columns, *by, *wanted.checks]),
            after,
            count,
        )
        found, each = first_of_each(self.connection, models, of_one, promotions.c.id)
        query = select(each.c.id, each.c.created_time).select_from(found).where(models.c.id.in_(model_keys))
        return query.order_by(each.c.created_time.desc(), each.c.id.desc()).limit(count)


def _keys(caller: Caller, wanted: PromotionFilter) -> Select[Any]:
    """The query for the keys behind the RIDs of a filter; NULL where there is nothing that the caller sees."""
    stored = select(versions.c.id).join_from(versions, branches).join(models)
    return select(
        opaque_keys.c.key.label("secret"),
        _key(select(models.c.id).where(models.c.rid == wanted.model_rid, model_is_visible(caller)), "model"),
        _key(stored.where(versions.c.rid == wanted.version_rid), "version"),
        _key(stored.where(versions.c.rid == wanted.source_rid, model_is_visible(caller)), "source"),
    )


def _key(query: Select[Any], name: str) -> ColumnElement[int | None]:
    return query.scalar_subquery().label(name)


def _in_keys(caller: Caller, wanted: PromotionFilter, known: AnyRow) -> _Wanted | None:
    """Return a filter in keys; None if no promotion can pass it."""
    if any(
        rid is not None and key is None
        for rid, key in (
            (wanted.model_rid, known.model),
            (wanted.version_rid, known.version),
            (wanted.source_rid, known.source),
        )
    ):
        return None
    # The first of them has the fewest promotions, as a rule. That of a version is a single one, without a walk.
    of_version = [] if known.version is None else [promotions.c.version_id == known.version]
    given = [
        (column, value)
        for column, value in (
            (promotions.c.source_rid, wanted.source_rid),
            (promotions.c.model_id, known.model),
            (promotions.c.created_by, wanted.created_by),
        )
        if value is not None
    ]
    checks: list[ColumnElement[bool]] = []
    # As subqueries for a row and not as joins: only then does PostgreSQL ask them of the rows in their order.
    if not caller.is_admin and wanted.model_rid is None:
        target = select(model_is_visible(caller)).where(models.c.id == promotions.c.model_id)
        checks.append(target.scalar_subquery())
    if wanted.branch is not None:
        made = select(branches.c.name).join_from(versions, branches).where(versions.c.id == promotions.c.version_id)
        checks.append(made.scalar_subquery() == wanted.branch)
    return _Wanted(
        along=given[0] if given and not of_version else None,
        since_ms=wanted.since_ms,
        columns=of_version + [column == value for column, value in given[0 if of_version else 1 :]],
        checks=checks,
        in_visible_models=not caller.is_admin and (known.version, known.source, known.model) == (None, None, None),
    )


def _look(wanted: _Wanted, after: _Place | None, count: int) -> Select[Any]:
    """The query for the first promotions behind a place along the index, and whether each passes the checks."""
    return _walk(wanted, after, count).add_columns(and_(true(), *wanted.checks).label("is_wanted"))


def _walk(wanted: _Wanted, after: _Place | None, count: int) -> Select[Any]:
    """The query for the first promotions behind a place along the index, newest first.

    It is a range of the index's own columns in the index's own order. By an equal value and by time, PostgreSQL
    would rather walk through all promotions by time where it expects to meet many that are wanted.
    """
    columns: list[ColumnElement[Any]] = [promotions.c.created_time, promotions.c.id]
    bounds: list[ColumnElement[bool]] = []
    value: list[Any] = []
    if wanted.along is not None:
        columns, value = [wanted.along[0], *columns], [wanted.along[1]]
    if wanted.since_ms is not None:
        bounds.append(tuple_(*columns[:-1]) >= tuple_(*value, wanted.since_ms))
    elif wanted.along is not None:
        bounds.append(columns[0] >= value[0])
    if after is not None:
        bounds.append(tuple_(*columns) < tuple_(*value, *after))
    elif wanted.along is not None:
        bounds.append(columns[0] <= value[0])
    query = select(promotions.c.id, promotions.c.created_time).where(*bounds, *wanted.columns)
    return query.order_by(*(column.desc() for column in columns)).limit(count)


def _promotions(caller: Caller) -> Select[Any]:
    """Return the query for promotions, with what a caller may see of each who may see its target."""
    source_is_visible = and_(_source_model.c.id.is_not(None), model_is_visible(caller, _source_model))
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
            source_is_visible.label("source_is_visible"),
            models.c.rid.label("model_rid"),
            branches.c.name.label("branch"),
            versions.c.rid.label("version_rid"),
            versions.c.version_number,
            replaced_rid.label("replaced_rid"),
        )
        .join_from(promotions, versions, versions.c.id == promotions.c.version_id)
        .join(branches, branches.c.id == versions.c.branch_id)
        .join(models, models.c.id == promotions.c.model_id)
        .outerjoin(_source, _source.c.rid == promotions.c.source_rid)
        .outerjoin(_source_branch, _source_branch.c.id == _source.c.branch_id)
        .outerjoin(_source_model, _source_model.c.id == _source_branch.c.model_id)
    )


def _promotion_bytes() -> ColumnElement[int]:
    """The size at most, as a message, of a promotion."""
    rids = (promotions.c.rid, promotions.c.source_model_rid, promotions.c.source_rid, models.c.rid, versions.c.rid)
    # Like the payload, for the same reason not by a join.
    findings = select(verdicts.c.size).where(verdicts.c.id == promotions.c.verdict_id).scalar_subquery()
    names = (branches.c.name, promotions.c.created_by, func.coalesce(promotions.c.reason, ""))
    return (
        sum(func.length(rid) for rid in rids)
        + _REPLACED_RID_BYTES
        + sum(MAX_BYTES_A_CHARACTER * func.length(name) for name in names)
        + func.coalesce(findings, 0)
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
