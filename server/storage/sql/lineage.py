"""Lineage as SQL: one statement walks from a version to its root and to all that was made of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate

from sqlalchemy import BigInteger, Subquery, func, literal, select, union

from modelregistry.v1.promotion_pb2 import LineageNode
from server.core.caller import Caller
from server.core.errors import ModelVersionNotFound
from server.storage.contract import Lineage
from server.storage.paging import Page, PageRequest
from server.storage.sql.access import model_is_visible
from server.storage.sql.files import SqlFileReader
from server.storage.sql.opaque import Opaque
from server.storage.sql.rows import AnyRow
from server.storage.sql.tables import branches, models, opaque_keys, promotions, versions

# What a message adds to a node in it, at most: a tag and a length.
_OVERHEAD_BYTES = 6


class SqlLineageReader(SqlFileReader):
    """The question where a version came from and where it went."""

    def get_lineage(self, model_version_rid: str, caller: Caller, page: PageRequest) -> Lineage:
        """See the contract."""
        asked = self.connection.execute(
            select(versions.c.id, select(opaque_keys.c.key).scalar_subquery().label("secret"))
            .join(branches)
            .join(models)
            .where(versions.c.rid == model_version_rid, model_is_visible(caller))
        ).one_or_none()
        if asked is None:
            raise ModelVersionNotFound(model_rid="", model_version_rid=model_version_rid)
        opaque = Opaque(asked.secret)
        related = _related(asked.id)
        wanted = select(related.c.id, func.max(related.c.id).over().label("newest"))
        if page.after is not None:
            last, bound = opaque.numbers(page.after)
            # Keys are taken in order, but not committed in order. Within the bound, what a version was promoted from
            # was there when the first page was read; beyond it, that may have come behind the reader's back.
            wanted = wanted.where(related.c.id > last, related.c.id <= bound)
        # First the page and then what is said of each version, so that no database thinks of it the other way round.
        listed = wanted.order_by(related.c.id).limit(page.size + 1).subquery("listed")
        source = versions.alias("source")
        rows = self.connection.execute(
            select(
                listed.c.id,
                listed.c.newest,
                source.c.id.label("previous_id"),
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
            .outerjoin(source, source.c.rid == promotions.c.source_rid)
            .order_by(listed.c.id)
        ).all()
        nodes = self._that_fit([_to_node(row, partial(opaque.name, asked.id)) for row in rows[: page.size]])
        following = opaque.position(rows[len(nodes) - 1].id, rows[0].newest) if len(nodes) < len(rows) else None
        return Lineage(Page(nodes, following), opaque.name(asked.id, asked.id))

    def _that_fit(self, nodes: list[LineageNode]) -> list[LineageNode]:
        """Return as many of the nodes as fit into one message, and at least one."""
        filled = accumulate(node.ByteSize() + _OVERHEAD_BYTES for node in nodes)
        fitting = sum(bytes_ <= self._fitting_bytes for bytes_ in filled)
        return nodes[: max(fitting, 1)]


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
