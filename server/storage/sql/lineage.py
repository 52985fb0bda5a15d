"""Lineage as SQL: one statement walks from a version to its root and to all that was made of it."""

from __future__ import annotations

from sqlalchemy import CTE, BigInteger, Subquery, case, func, literal, select, union, union_all

from modelregistry.v1.promotion_pb2 import LineageNode
from server.caller import Caller
from server.errors import ModelVersionNotFound
from server.storage.promotions import Lineage
from server.storage.repository import PageRequest
from server.storage.sql.access import model_is_visible
from server.storage.sql.files import SqlFileReader
from server.storage.sql.reader import page_of
from server.storage.sql.rows import AnyRow
from server.storage.sql.tables import branches, models, promotions, versions


class SqlLineageReader(SqlFileReader):
    """The question where a version came from and where it went."""

    def get_lineage(self, model_version_rid: str, caller: Caller, page: PageRequest) -> Lineage:
        """See the contract."""
        traced = self.connection.scalar(
            select(versions.c.id)
            .join(branches)
            .join(models)
            .where(versions.c.rid == model_version_rid, model_is_visible(caller))
        )
        if traced is None:
            raise ModelVersionNotFound(model_rid="", model_version_rid=model_version_rid)
        placed = _placed(traced)
        # First the page and then what is said of each version, so that no database thinks of it the other way round.
        wanted = select(placed).order_by(placed.c.place).limit(page.size + 1)
        if page.after is not None:
            wanted = wanted.where(placed.c.place > page.after)
        listed = wanted.subquery("listed")
        query = (
            select(
                listed.c.place,
                listed.c.previous_place,
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
                select(placed.c.place).where(placed.c.id == traced).scalar_subquery().label("traced_place"),
            )
            .join_from(listed, versions, versions.c.id == listed.c.id)
            .join(branches, branches.c.id == versions.c.branch_id)
            .join(models, models.c.id == branches.c.model_id)
            .outerjoin(promotions, promotions.c.version_id == versions.c.id)
            .order_by(listed.c.place)
        )
        rows = self.connection.execute(query).all()
        nodes = page_of(rows, rows[: page.size], "place", _to_node)
        return Lineage(nodes, rows[0].traced_place if rows else 0)


def _placed(traced: int) -> CTE:
    """The keys of a version's predecessors, of itself and of its descendants: each with its place, counted from 0, and
    with that of the version that it was promoted from, if it was.
    """
    related = _related(traced)
    source = versions.alias("source")
    links = (
        select(related.c.id, source.c.id.label("previous_id"))
        .outerjoin_from(related, promotions, promotions.c.version_id == related.c.id)
        .outerjoin(source, source.c.rid == promotions.c.source_rid)
        .cte("links")
    )
    # The place of a key is how many keys are before it. So the keys that are referred to are sorted in among the others
    # and counted there, in one go, where a join would be made for each key or for each pair, as the database guesses.
    marks = union_all(
        select(links.c.id, links.c.id.label("key"), literal(0).label("refers")),
        select(links.c.id, links.c.previous_id, literal(1)).where(links.c.previous_id.is_not(None)),
    ).subquery("marks")
    place = (func.sum(1 - marks.c.refers).over(order_by=(marks.c.key, marks.c.refers)) - 1).label("place")
    counted = select(marks.c.id, marks.c.refers, place).subquery("counted")
    return (
        select(
            counted.c.id,
            func.max(case((counted.c.refers == 0, counted.c.place))).label("place"),
            func.max(case((counted.c.refers == 1, counted.c.place))).label("previous_place"),
        )
        .group_by(counted.c.id)
        .cte("placed")
    )


def _related(traced: int) -> Subquery:
    """The keys of a version's predecessors, of itself and of its descendants.

    Of a chain that bites its own tail, which only an import can make, each link is walked once.
    """
    up = select(literal(traced, BigInteger).label("id")).cte("predecessors", recursive=True)
    source = versions.alias("source")
    up = up.union(
        select(source.c.id)
        .join_from(up, promotions, promotions.c.version_id == up.c.id)
        .join(source, source.c.rid == promotions.c.source_rid)
    )
    down = select(literal(traced, BigInteger).label("id")).cte("descendants", recursive=True)
    origin = versions.alias("origin")
    down = down.union(
        select(promotions.c.version_id)
        .join_from(down, origin, origin.c.id == down.c.id)
        .join(promotions, promotions.c.source_rid == origin.c.rid)
    )
    return union(select(up.c.id), select(down.c.id)).subquery("related")


def _to_node(row: AnyRow) -> LineageNode:
    node = LineageNode(index=row.place, previous_index=row.previous_place)
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
