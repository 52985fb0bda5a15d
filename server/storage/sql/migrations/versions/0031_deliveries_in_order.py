"""Deliveries in the order of their events, and receivers that are held back."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    """Add the column, and replace the indexes."""
    op.add_column("delivery_queues", sa.Column("held_until", sa.BigInteger))
    op.drop_index("ix_deliveries_subscription_id_state_id", "deliveries")
    op.drop_index("ix_deliveries_subscription_id_id", "deliveries")
    state = ["subscription_id", "state", "event_key"]
    op.create_index("ix_deliveries_subscription_id_state_event_key", "deliveries", state)
    op.create_index("ix_deliveries_subscription_id_event_key", "deliveries", ["subscription_id", "event_key"])
