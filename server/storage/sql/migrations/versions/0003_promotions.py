"""Promotions as records, verdicts on compatibility, policies of branches, and requests with an id."""

import uuid

import sqlalchemy as sa
from alembic import op

from modelregistry.v1.model_pb2 import ModelVersionSource

revision = "0003"
down_revision = "0002"

key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

BATCH = 1000
PROMOTION = 1
# How a serialized ModelVersionSource begins that says `promoted`.
PROMOTED_TAG = b"\x32"


def upgrade() -> None:
    """Add the tables, and the record of each promotion that was made before."""
    op.create_table(
        "verdicts",
        sa.Column("id", key, nullable=False),
        sa.Column("head_digest", sa.LargeBinary, nullable=False),
        sa.Column("candidate_digest", sa.LargeBinary, nullable=False),
        sa.Column("rules", sa.Integer, nullable=False),
        sa.Column("error_count", sa.Integer, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_verdicts"),
        sa.ForeignKeyConstraint(["head_digest"], ["contents.digest"], name="fk_verdicts_head_digest_contents"),
        sa.ForeignKeyConstraint(
            ["candidate_digest"], ["contents.digest"], name="fk_verdicts_candidate_digest_contents"
        ),
    )
    op.create_index(
        "ix_verdicts_head_digest_candidate_digest", "verdicts", ["head_digest", "candidate_digest", "rules"]
    )
    promotions = op.create_table(
        "promotions",
        sa.Column("id", key, nullable=False),
        sa.Column("rid", text, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("version_id", key, nullable=False),
        sa.Column("model_id", key, nullable=False),
        sa.Column("source_model_rid", text, nullable=False),
        sa.Column("source_rid", text, nullable=False),
        sa.Column("verdict_id", key),
        sa.Column("reason", text),
        sa.Column("created_time", sa.BigInteger, nullable=False),
        sa.Column("created_by", text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_promotions"),
        sa.UniqueConstraint("rid", name="uq_promotions_rid"),
        sa.UniqueConstraint("version_id", name="uq_promotions_version_id"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_promotions_version_id_versions"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_promotions_model_id_models"),
        sa.ForeignKeyConstraint(["verdict_id"], ["verdicts.id"], name="fk_promotions_verdict_id_verdicts"),
    )
    op.create_index("ix_promotions_created_time_id", "promotions", ["created_time", "id"])
    op.create_index("ix_promotions_model_id_created_time", "promotions", ["model_id", "created_time", "id"])
    op.create_index("ix_promotions_created_by_created_time", "promotions", ["created_by", "created_time", "id"])
    op.create_index("ix_promotions_source_rid", "promotions", ["source_rid"])
    op.create_table(
        "branch_policies",
        sa.Column("id", key, nullable=False),
        sa.Column("model_id", key, nullable=False),
        sa.Column("branch", text, nullable=False),
        sa.Column("compatibility", sa.SmallInteger, nullable=False),
        sa.Column("changed_by", text, nullable=False),
        sa.Column("changed_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_branch_policies"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_branch_policies_model_id_models"),
    )
    op.create_index("ix_branch_policies_model_id_branch", "branch_policies", ["model_id", "branch", "id"])
    op.create_table(
        "requests",
        sa.Column("caller", text, nullable=False),
        sa.Column("rpc", text, nullable=False),
        sa.Column("request_id", text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("results", text, nullable=False),
        sa.Column("created_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("caller", "rpc", "request_id", name="pk_requests"),
    )
    _record_earlier_promotions(promotions)


def _record_earlier_promotions(promotions: sa.Table) -> None:
    """Record the promotions that the sources of versions tell of; why, and what was found, nobody knows any more."""
    connection = op.get_bind()
    versions = sa.table(
        "versions", *(sa.column(name) for name in ("id", "branch_id", "source", "created_time", "created_by"))
    )
    branches = sa.table("branches", sa.column("id"), sa.column("model_id"))
    last = 0
    while True:
        rows = connection.execute(
            sa.select(versions, branches.c.model_id)
            .join_from(versions, branches, versions.c.branch_id == branches.c.id)
            .where(versions.c.id > last, sa.func.substr(versions.c.source, 1, 1) == PROMOTED_TAG)
            .order_by(versions.c.id)
            .limit(BATCH)
        ).all()
        if not rows:
            return
        op.bulk_insert(promotions, [_record(row) for row in rows])
        last = rows[-1].id


def _record(row: sa.Row[tuple[object, ...]]) -> dict[str, object]:
    promoted = ModelVersionSource.FromString(row.source).promoted
    return {
        "rid": f"ri.models.main.promotion.{uuid.uuid4()}",
        "kind": PROMOTION,
        "version_id": row.id,
        "model_id": row.model_id,
        "source_model_rid": promoted.previous_model_rid,
        "source_rid": promoted.previous_model_version_rid,
        "created_time": row.created_time,
        "created_by": row.created_by,
    }
