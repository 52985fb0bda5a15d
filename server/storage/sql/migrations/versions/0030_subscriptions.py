"""Subscriptions, and the deliveries of events to them."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0028"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "subscriptions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("rid", TEXT, nullable=False),
        sa.Column("resource_rid", TEXT, nullable=False),
        sa.Column("branch", TEXT),
        sa.Column("types", sa.BigInteger),
        sa.Column("url", TEXT, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("description", TEXT),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("created_time", sa.BigInteger, nullable=False),
        sa.Column("changed_time", sa.BigInteger),
        sa.Column("since_event", sa.BigInteger, nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("previous_secret", sa.LargeBinary),
        sa.Column("previous_expire_time", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_subscriptions"),
        sa.UniqueConstraint("rid", name="uq_subscriptions_rid"),
    )
    op.create_index("ix_subscriptions_resource_rid_id", "subscriptions", ["resource_rid", "id"])
    op.create_index("ix_subscriptions_created_by", "subscriptions", ["created_by"])
    op.create_table(
        "delivery_queues",
        sa.Column("subscription_id", KEY, nullable=False),
        sa.Column("due_time", sa.BigInteger),
        sa.Column("lease", TEXT),
        sa.Column("leased_until", sa.BigInteger),
        sa.Column("failing_since", sa.BigInteger),
        sa.PrimaryKeyConstraint("subscription_id", name="pk_delivery_queues"),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscriptions.id"],
            name="fk_delivery_queues_subscription_id_subscriptions",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_delivery_queues_due_time", "delivery_queues", ["due_time"])
    op.create_table(
        "deliveries",
        sa.Column("id", KEY, nullable=False),
        sa.Column("subscription_id", KEY, nullable=False),
        sa.Column("event_key", sa.BigInteger, nullable=False),
        sa.Column("event_id", TEXT, nullable=False),
        sa.Column("event_type", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("queued_time", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("tried_since", sa.BigInteger),
        sa.Column("attempt_time", sa.BigInteger),
        sa.Column("duration_ms", sa.Integer),
        sa.Column("http_status", sa.Integer),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("error", TEXT),
        sa.Column("next_time", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscriptions.id"],
            name="fk_deliveries_subscription_id_subscriptions",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("subscription_id", "event_id", name="uq_deliveries_subscription_id_event_id"),
    )
    op.create_index("ix_deliveries_subscription_id_state_id", "deliveries", ["subscription_id", "state", "id"])
    op.create_index("ix_deliveries_subscription_id_id", "deliveries", ["subscription_id", "id"])
    fan_out = op.create_table(
        "event_fan_out",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_fan_out"),
    )
    op.bulk_insert(fan_out, [{"id": 1, "position": 0}])
