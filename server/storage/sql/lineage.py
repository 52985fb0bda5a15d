"""Lineage: one statement walks from a version to its root and to all that was promoted from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Integer,
    ScalarSelect,
    Select,
    bindparam,
    func,
    literal,
    select,
    union,
)

from modelregistry.v1.promotion_pb2 import LineageNode
from server.core.caller import Caller
from server.core.errors import ModelVersionNotFound
from server.storage.contract import Lineage
from server.storage.paging import Page, PageRequest
from server.storage.sql.cursors import Cursors
from server.storage.sql.origins import visible_key
from server.storage.sql.pages import messages_that_fit
from server.storage.sql.rows import AnyColumns, AnyRow
from server.storage.sql.statements import Statement, for_callers, principals
from server.storage.sql.tables import branches, models, opaque_keys, promotions, versions
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.visibility import model_is_visible

# How many versions back those are looked for who had a part in one.
MAX_STEPS = 1000
# Before and behind every key.
_BEFORE_ALL, _BEHIND_ALL = 0, 2**63 - 1

_source = versions.alias("source")


def get_lineage(work: UnitOfWork, model_version_rid: str, caller: Caller, page: PageRequest) -> Lineage:
    """See the contract."""
    traced, cursors = trace(work, model_version_rid, caller)
    # Keys are taken in order, but not committed in order. Within the bound, what a version was promoted from was there
    # when the first page was read; beyond it, that may have been committed afterwards.
    last, bound = (_BEFORE_ALL, _BEHIND_ALL) if page.after is None else cursors.numbers(page.after)
    parameters = {"traced": traced, "last": last, "bound": bound, "count": page.size + 1}
    rows = work.session.all(_nodes(caller), parameters | principals(caller))
    nodes = [_to_node(row, partial(cursors.name, traced)) for row in rows[: page.size]]
    nodes = messages_that_fit(nodes, work.fitting_bytes)
    following = cursors.position(rows[len(nodes) - 1].id, rows[0].newest) if len(nodes) < len(rows) else None
    return Lineage(Page(nodes, following), cursors.name(traced, traced))


def trace(work: UnitOfWork, model_version_rid: str, caller: Caller) -> tuple[int, Cursors]:
    """Return the key of a version, and cursors for pages of what is about it. Raises ModelVersionNotFound."""
    traced = work.session.one(_traced(caller), {"version_rid": model_version_rid} | principals(caller))
    if traced.id is None:
        raise ModelVersionNotFound(model_rid="", model_version_rid=model_version_rid)
    return traced.id, Cursors(traced.secret)


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
        .scalar_subquery()
    )


def authors_of(work: UnitOfWork, model_version_rid: str) -> frozenset[str]:
    """See the contract."""
    rows = work.session.all(_authors, {"version_rid": model_version_rid, "steps": MAX_STEPS})
    return frozenset(row.created_by for row in rows)


@for_callers
def _traced(caller: Caller) -> Select[*AnyColumns]:
    return select(visible_key(caller, bindparam("version_rid")).label("id"), opaque_keys.c.key.label("secret"))


@for_callers
def _nodes(caller: Caller) -> Select[*AnyColumns]:
    """The versions related to one, behind a key and within a bound.

    Of a chain that bites its own tail, which only an import can make, each link is walked once.
    """
    traced = select(bindparam("traced", type_=BigInteger).label("id"))
    up = traced.cte("predecessors", recursive=True)
    # Here and below, it ends with NULL.
    up = up.union(select(source_of(up.c.id)).where(up.c.id.is_not(None)))
    down = descendants(traced)
    related = union(select(up.c.id), select(down.c.id)).subquery("related")
    # First the page and then what is said of each version, so that no database plans it the other way round.
    listed = (
        select(related.c.id, func.max(related.c.id).over().label("newest"))
        .where(related.c.id > bindparam("last"), related.c.id <= bindparam("bound"))
        .order_by(related.c.id)
        .limit(bindparam("count"))
        .subquery("listed")
    )
    previous = versions.alias("previous")
    return (
        select(
            listed.c.id,
            listed.c.newest,
            previous.c.id.label("previous_id"),
            model_is_visible(caller).label("is_visible"),
            versions.c.rid,
            versions.c.version_number,
            versions.c.created_time,
            versions.c.created_by,
            models.c.rid.label("model_rid"),
            models.c.name.label("model_name"),
            branches.c.name.label("branch"),
            branches.c.version_count,
            promotions.c.rid.label("promotion_rid"),
        )
        .join_from(listed, versions, versions.c.id == listed.c.id)
        .join(branches, branches.c.id == versions.c.branch_id)
        .join(models, models.c.id == branches.c.model_id)
        .outerjoin(promotions, promotions.c.version_id == versions.c.id)
        .outerjoin(previous, previous.c.rid == promotions.c.source_rid)
        .order_by(listed.c.id)
    )


def _to_node(row: AnyRow, name: Callable[[int], str]) -> LineageNode:
    node = LineageNode(node_id=name(row.id))
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


_authors = Statement(_authors_of())
