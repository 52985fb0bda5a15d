"""Lineage as SQL: one statement walks from a version to its root and to all that was made of it."""

from __future__ import annotations

from sqlalchemy import CTE, BigInteger, func, literal, select, union

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
        related = _related(traced)
        previous = select(related).subquery("previous")
        previous_version = versions.alias("previous_version")
        query = (
            select(
                related.c.place,
                previous.c.place.label("previous_index"),
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
                select(related.c.place).where(related.c.id == traced).scalar_subquery().label("traced_index"),
            )
            .join_from(related, versions, versions.c.id == related.c.id)
            .join(branches, branches.c.id == versions.c.branch_id)
            .join(models, models.c.id == branches.c.model_id)
            .outerjoin(promotions, promotions.c.version_id == versions.c.id)
            .outerjoin(previous_version, previous_version.c.rid == promotions.c.source_rid)
            .outerjoin(previous, previous.c.id == previous_version.c.id)
            .order_by(related.c.place)
            .limit(page.size + 1)
        )
        if page.after is not None:
            query = query.where(related.c.place > page.after)
        rows = self.connection.execute(query).all()
        nodes = page_of(rows, rows[: page.size], "place", _to_node)
        return Lineage(nodes, rows[0].traced_index if rows else 0)


def _related(traced: int) -> CTE:
    """The keys of a version's predecessors, of itself and of its descendants, each with its index.

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
    both = union(select(up.c.id), select(down.c.id)).subquery("both_ways")
    place = (func.row_number().over(order_by=both.c.id) - 1).label("place")
    return select(both.c.id, place).cte("related")


def _to_node(row: AnyRow) -> LineageNode:
    node = LineageNode(index=row.place, previous_index=row.previous_index)
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
