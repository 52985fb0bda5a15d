"""Promotions of releases that knew no chain: they are chained behind those of their branch that are."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select, update

from server.core.integrity import BEGINNING, ChainedRecord, chain_hash
from server.storage.sql.tables import branches, models, promotions, versions

# How many promotions are chained in one transaction, which keeps others out of their branches for milliseconds.
_AT_ONCE = 200


def chain_next(connection: Connection, behind: int) -> int | None:
    """Chain some promotions behind one, by key, and return the last one's key; None if there are none."""
    records = connection.execute(
        select(promotions, versions.c.rid.label("version_rid"), versions.c.version_number, versions.c.content_digest)
        .add_columns(branches.c.id.label("branch_key"), branches.c.name, models.c.rid.label("model_rid"))
        .join_from(promotions, versions, versions.c.id == promotions.c.version_id)
        .join(branches)
        .join(models, models.c.id == branches.c.model_id)
        .where(promotions.c.hash.is_(None), promotions.c.id > behind)
        .order_by(promotions.c.id)
        .limit(_AT_ONCE)
    ).all()
    if not records:
        return None
    # Locked, so that what servers promote meanwhile comes before these or behind them.
    keys = {record.branch_key for record in records}
    locked = select(branches.c.id, branches.c.chain).where(branches.c.id.in_(keys)).order_by(branches.c.id)
    chains = {row.id: row.chain or BEGINNING for row in connection.execute(locked.with_for_update())}
    links = []
    for record in records:
        previous = chains[record.branch_key]
        chains[record.branch_key] = chain_hash(
            previous,
            ChainedRecord(
                rid=record.rid,
                kind=record.kind,
                version_rid=record.version_rid,
                model_rid=record.model_rid,
                branch=record.name,
                version_number=record.version_number,
                source_model_rid=record.source_model_rid,
                source_rid=record.source_rid,
                content_digest=record.content_digest.hex(),
                reason=record.reason,
                created_ms=record.created_time,
                created_by=record.created_by,
                policy_revision=record.policy_revision,
                folder_policy_revision=record.folder_policy_revision,
                promotion_request_rid=record.promotion_request_rid,
                override=None if record.override is None else bool(record.override),
            ),
        )
        links.append({"key": record.id, "chained_to": previous, "chain_end": chains[record.branch_key]})
    connection.execute(
        update(promotions)
        .where(promotions.c.id == bindparam("key"))
        .values(previous_hash=bindparam("chained_to"), hash=bindparam("chain_end")),
        links,
    )
    connection.execute(
        update(branches).where(branches.c.id == bindparam("key")).values(chain=bindparam("chain_end")),
        [{"key": key, "chain_end": chain} for key, chain in chains.items()],
    )
    return int(records[-1].id)
