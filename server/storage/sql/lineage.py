"""Lineage: from a version back to its root, and then down the tree of all that was promoted from it.

A page takes as long as it is, however large the tree: that is walked in preorder, along the index of sources. From a
version the walk goes to the first one that was promoted from it, or else to the next one that was promoted from the
same, or else back to that, and on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    CompoundSelect,
    FromClause,
    Integer,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    tuple_,
    union,
)

from modelregistry.v1.promotion_pb2 import LineageNode
from server.core.caller import Caller
from server.core.errors import ModelVersionNotFound
from server.storage.contract import Lineage
from server.storage.paging import Page, PageRequest
from server.storage.sql.cursors import Cursors, LineageCursors, LineagePlace
from server.storage.sql.origins import visible_key
from server.storage.sql.pages import messages_that_fit
from server.storage.sql.rows import AnyColumns, AnyRow
from server.storage.sql.statements import Statement, for_callers, numbered, padded, principals, several
from server.storage.sql.tables import branches, models, opaque_keys, promotions, versions
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.visibility import model_is_visible

# How many versions back those are looked for who had a part in one.
MAX_STEPS = 1000
# How many steps the walk for a page takes back up the tree, at most, beside as many as it tells versions.
MAX_PASSED = 1000

_source = versions.alias("source")
_traced_key = bindparam("traced", type_=BigInteger)


class _Walked(NamedTuple):
    """The places of versions that are told, in order, and where the walk goes on: None if it has ended."""

    told: list[LineagePlace]
    following: LineagePlace | None


def get_lineage(work: UnitOfWork, model_version_rid: str, caller: Caller, page: PageRequest) -> Lineage:
    """See the contract."""
    known = _trace(work, model_version_rid, caller)
    names, positions = Cursors(known.secret), LineageCursors(known.secret, model_version_rid)

    def rid_of(key: int) -> str:
        row = work.session.one_or_none(_rid, {"key": key})
        return "" if row is None else row.rid

    place = None if page.after is None else positions.place(page.after, rid_of)
    # One more than a page has tells whether another page follows.
    told, following = _walked(work, known.id, place, page.size + 1)
    keys = padded([each.key for each in told[: page.size]])
    rows = work.session.all(_nodes(caller, len(keys)), numbered("key", keys) | principals(caller)) if told else ()
    by_key = {row.id: row for row in rows}
    nodes = [_to_node(by_key[each.key], each, partial(names.name, known.id)) for each in told[: page.size]]
    nodes = messages_that_fit(nodes, work.fitting_bytes)
    end, position = told[len(nodes) - 1] if len(nodes) < len(told) else following, None
    if end is not None:
        position = positions.position(end, by_key[end.key].rid if end.key in by_key else rid_of(end.key))
    return Lineage(Page(nodes, position), names.name(known.id, known.id))


def trace(work: UnitOfWork, model_version_rid: str, caller: Caller) -> tuple[int, Cursors]:
    """Return the key of a version, and cursors for pages of what is about it. Raises ModelVersionNotFound."""
    known = _trace(work, model_version_rid, caller)
    return known.id, Cursors(known.secret)


def descendants(traced: Select[*AnyColumns]) -> CTE:
    """A version, by its `id`, and all that was promoted from it, at whatever distance."""
    down = traced.cte("descendants", recursive=True)
    origin = versions.alias("origin")
    return down.union(
        select(promotions.c.version_id)
        .join_from(down, origin, origin.c.id == down.c.id)
        .join(promotions, promotions.c.source_rid == origin.c.rid)
    )


def source_of(version_key: ColumnElement[int | None]) -> ScalarSelect[int]:
    """The key of what a version was promoted from; NULL if it was not, or if that is not stored."""
    # Not by joins, which PostgreSQL would make of whole tables where it expects many versions, or knows of few.
    return (
        select(_source.c.id)
        .join_from(promotions, _source, _source.c.rid == promotions.c.source_rid)
        .where(promotions.c.version_id == version_key)
        .correlate_except(promotions, _source)
        .scalar_subquery()
    )


def authors_of(work: UnitOfWork, model_version_rid: str) -> frozenset[str]:
    """See the contract."""
    rows = work.session.all(_authors, {"version_rid": model_version_rid, "steps": MAX_STEPS})
    return frozenset(row.created_by for row in rows)


def _trace(work: UnitOfWork, model_version_rid: str, caller: Caller) -> AnyRow:
    traced: AnyRow = work.session.one(_traced(caller), {"version_rid": model_version_rid} | principals(caller))
    if traced.id is None:
        raise ModelVersionNotFound(model_rid="", model_version_rid=model_version_rid)
    return traced


def _walked(work: UnitOfWork, traced: int, behind: LineagePlace | None, most: int) -> _Walked:
    """Walk on behind a place, or from the traced version itself on."""
    told: list[LineagePlace] = []
    if behind is None:
        behind = LineagePlace(traced, is_up=True)
        told.append(behind)
    if behind.is_up:
        told += _predecessors(work, traced, behind, most - len(told))
        behind = LineagePlace(traced)
    if len(told) == most:
        return _Walked(told, told[-1])
    descendants_told, following = _descendants(work, traced, behind, most - len(told))
    return _Walked(told + descendants_told, following)


def _predecessors(work: UnitOfWork, traced: int, behind: LineagePlace, most: int) -> list[LineagePlace]:
    """Return the first predecessors behind one.

    A circle, which only an import can make, ends where it is back at one that is on this page, or that the page before
    ended with, or at the landmark of an earlier page; a longer one may so be told again. If it is back at the traced
    version on the first page, it is all told among what came of that.
    """
    keys = [row.id for row in work.session.all(_way_up, {"from": behind.key, "most": most})]
    if traced in keys and behind.key == traced:
        return []
    told: dict[int, LineagePlace] = {}
    place = behind
    for key in keys:
        if key in told or key in (traced, behind.key, behind.landmark):
            break
        depth = place.depth - 1
        # At every power of two, so that there is a landmark on the circle at last.
        landmark = key if not -depth & (-depth - 1) else place.landmark
        place = told[key] = LineagePlace(key, depth, landmark, is_up=True)
    return [*told.values()]


def _descendants(work: UnitOfWork, traced: int, behind: LineagePlace, most: int) -> _Walked:
    """Return the first descendants behind a place, in preorder."""
    parameters = {
        "traced": traced,
        "from": behind.key,
        "from_depth": behind.depth,
        "is_below_told": int(behind.is_below_told),
        "is_last": int(behind.is_last),
        "most": most,
        "most_steps": most + MAX_PASSED,
    }
    steps = work.session.all(_way_down, parameters)
    places = [
        LineagePlace(step.id, step.depth, is_below_told=not step.is_told, is_last=bool(step.is_last)) for step in steps
    ]
    told = [place for place in places if not place.is_below_told]
    has_ended = len(told) < most and len(steps) < most + MAX_PASSED
    return _Walked(told, None if has_ended else places[-1])


@for_callers
def _traced(caller: Caller) -> Select[*AnyColumns]:
    return select(visible_key(caller, bindparam("version_rid")).label("id"), opaque_keys.c.key.label("secret"))


def _up() -> Select[*AnyColumns]:
    """The predecessors of a version, nearest first, and so many at most."""
    start = select(bindparam("from", type_=BigInteger).label("id"), literal(0, Integer).label("step"))
    way = start.cte("way", recursive=True)
    is_on = (way.c.id.is_not(None), way.c.step < bindparam("most", type_=Integer))
    way = way.union_all(select(source_of(way.c.id), way.c.step + 1).where(*is_on))
    return select(way.c.id).where(way.c.step > 0, way.c.id.is_not(None)).order_by(way.c.step)


def _down() -> Select[*AnyColumns]:
    """The walk through the descendants of a version from one of them on, or from that version itself.

    A step that `is_told` goes on to a version; others go back up, past it and all below it. `child` and `sibling` are
    what can follow: the first version that was promoted from it, and the next one from the same. `is_last` is
    whether nothing follows once those are told and all below them, so that a long chain is not walked back.
    """
    given = {name: bindparam(name, type_=BigInteger) for name in ("from", "from_depth", "is_below_told", "is_last")}
    key, zero, one = given["from"], literal(0, BigInteger), literal(1, BigInteger)
    walk = select(
        key.label("id"),
        case((given["is_below_told"] == zero, _first_child(key))).label("child"),
        case((key != _traced_key, _next_sibling(key))).label("sibling"),
        given["from_depth"].label("depth"),
        zero.label("is_told"),
        given["is_last"].label("is_last"),
        zero.label("told"),
        zero.label("step"),
    ).cte("walk", recursive=True)
    forward, back = func.coalesce(walk.c.child, walk.c.sibling), source_of(walk.c.id)
    has_child, has_sibling = walk.c.child.is_not(None), walk.c.sibling.is_not(None)
    goes_on = or_(forward.is_not(None), and_(walk.c.is_last == zero, walk.c.id != _traced_key, back != _traced_key))
    walk = walk.union_all(
        select(
            func.coalesce(forward, back),
            _first_child(forward),
            _next_sibling(func.coalesce(forward, back)),
            walk.c.depth + case((has_child, one), (has_sibling, zero), else_=-one),
            case((forward.is_not(None), one), else_=zero),
            case(
                (and_(has_child, has_sibling), zero),
                # Behind the last one that was promoted from the traced version itself, whatever there was before.
                (and_(has_child, walk.c.depth == one), one),
                else_=walk.c.is_last,
            ),
            walk.c.told + case((forward.is_not(None), one), else_=zero),
            walk.c.step + one,
        ).where(
            walk.c.told < bindparam("most", type_=BigInteger),
            walk.c.step < bindparam("most_steps", type_=BigInteger),
            goes_on,
        )
    )
    columns = (walk.c.id, walk.c.depth, walk.c.is_told, walk.c.is_last)
    return select(*columns).where(walk.c.step > zero).order_by(walk.c.step)


def _first_child(version_key: ColumnElement[int]) -> ScalarSelect[int]:
    """The first version that was promoted from another; NULL if there is none."""
    made, origin = promotions.alias("made"), versions.alias("origin")
    rid = select(origin.c.rid).where(origin.c.id == version_key).correlate_except(origin).scalar_subquery()
    query = select(made.c.version_id).where(made.c.source_rid == rid, made.c.version_id != _traced_key)
    return query.order_by(*_in_order(made)).limit(1).correlate_except(made).scalar_subquery()


def _next_sibling(version_key: ColumnElement[int]) -> ScalarSelect[int]:
    """The version that was promoted from the same one after another; NULL if there is none."""
    made, own = promotions.alias("made"), promotions.alias("own")

    def of_own(column: ColumnElement[Any]) -> ScalarSelect[Any]:
        return select(column).where(own.c.version_id == version_key).correlate_except(own).scalar_subquery()

    source, time_ms, key = map(of_own, _in_order(own))
    # A range of the index's own columns in the index's own order. A sum has no affinity; of another one than that of a
    # column, SQLite makes no use of its index.
    is_behind = (tuple_(*_in_order(made)) > tuple_(source, time_ms + 0, key + 0), made.c.source_rid <= source)
    query = select(made.c.version_id).where(*is_behind, made.c.version_id != _traced_key)
    return query.order_by(*_in_order(made)).limit(1).correlate_except(made).scalar_subquery()


def _in_order(made: FromClause) -> Sequence[ColumnElement[Any]]:
    return made.c.source_rid, made.c.created_time, made.c.id


@for_callers
def _nodes(caller: Caller, count: int) -> Select[*AnyColumns]:
    """What is said of versions, by their keys."""

    # Values and not joins, for which PostgreSQL would rather read the whole of a table of some thousand rows.
    def of_branch(*columns: ColumnElement[Any]) -> Select[*AnyColumns]:
        return select(*columns).where(branches.c.id == versions.c.branch_id)

    def of_model(column: ColumnElement[Any]) -> Select[*AnyColumns]:
        return of_branch(column).join_from(branches, models, models.c.id == branches.c.model_id)

    return select(
        versions.c.id,
        source_of(versions.c.id).label("previous_id"),
        of_model(model_is_visible(caller)).scalar_subquery().label("is_visible"),
        versions.c.rid,
        versions.c.version_number,
        versions.c.created_time,
        versions.c.created_by,
        of_model(models.c.rid).scalar_subquery().label("model_rid"),
        of_model(models.c.name).scalar_subquery().label("model_name"),
        of_branch(branches.c.name).scalar_subquery().label("branch"),
        of_branch(branches.c.version_count).scalar_subquery().label("version_count"),
        select(promotions.c.rid)
        .where(promotions.c.version_id == versions.c.id)
        .scalar_subquery()
        .label("promotion_rid"),
    ).where(versions.c.id.in_(several("key", count)))


def _to_node(row: AnyRow, place: LineagePlace, name: Callable[[int], str]) -> LineageNode:
    node = LineageNode(node_id=name(row.id), depth=place.depth)
    if row.previous_id is not None:
        node.previous_node_id = name(row.previous_id)
    if row.is_visible:
        node.model_version_rid = row.rid
        node.model_rid = row.model_rid
        node.model_name = row.model_name
        node.branch = row.branch
        node.version_number = row.version_number
        node.is_head = row.version_number == row.version_count
        if row.promotion_rid is not None:
            node.promotion_rid = row.promotion_rid
        node.created_by = row.created_by
        node.created_time.FromMilliseconds(row.created_time)
    return node


def _authors_of() -> CompoundSelect[*AnyColumns]:
    """Those who created or promoted a version and what it came from, some steps back, and who created its root."""
    way = select(versions.c.id, literal(0).label("step")).where(versions.c.rid == bindparam("version_rid"))
    up = way.cte("way", recursive=True)
    is_on = (up.c.id.is_not(None), up.c.step < bindparam("steps", type_=Integer))
    up = up.union_all(select(source_of(up.c.id), up.c.step + 1).where(*is_on))
    root = versions.alias("root")
    on_the_way = select(versions.c.created_by).join_from(up, versions, versions.c.id == up.c.id)
    of_root = (
        select(root.c.created_by)
        .join_from(versions, root, root.c.rid == versions.c.root_rid)
        .where(versions.c.rid == bindparam("version_rid"))
    )
    return union(on_the_way, of_root)


_rid = Statement(select(versions.c.rid).where(versions.c.id == bindparam("key")))
_way_up = Statement(_up())
_way_down = Statement(_down())
_authors = Statement(_authors_of())
