"""Deliveries in the order of their events."""

from alembic import op

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    """Replace the indexes, unless they were made beforehand."""
    state = ["subscription_id", "state", "event_key"]
    op.create_index("ix_deliveries_subscription_id_state_event_key", "deliveries", state, if_not_exists=True)
    key = ["subscription_id", "event_key"]
    op.create_index("ix_deliveries_subscription_id_event_key", "deliveries", key, if_not_exists=True)
    op.drop_index("ix_deliveries_subscription_id_state_id", "deliveries")
    op.drop_index("ix_deliveries_subscription_id_id", "deliveries")
