"""The log of events."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables. Of what was changed before, there are no events."""
    op.create_table(
        "events",
        sa.Column("id", KEY, nullable=False),
        sa.Column("type", sa.SmallInteger, nullable=False),
        sa.Column("rare_type", sa.SmallInteger),
        sa.Column("model_id", sa.BigInteger),
        sa.Column("folder_rid", TEXT),
        sa.Column("branch", TEXT),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("created_time", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_model_id_id", "events", ["model_id", "id"])
    op.create_index("ix_events_actor_id", "events", ["actor", "id"])
    for name, columns, condition in (
        ("ix_events_folder_rid_id", ["folder_rid", "id"], "folder_rid IS NOT NULL"),
        ("ix_events_rare_type_id", ["rare_type", "id"], "rare_type IS NOT NULL"),
        ("ix_events_rare_type_model_id_id", ["rare_type", "model_id", "id"], "rare_type IS NOT NULL"),
    ):
        op.create_index(name, "events", columns, postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))
    retention = op.create_table(
        "event_retention",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("removed_up_to", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_retention"),
    )
    op.bulk_insert(retention, [{"id": 1, "removed_up_to": 0}])
