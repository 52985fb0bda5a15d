"""Subscriptions by the event behind which they are fed."""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    """Create the index, of those that are not disabled."""
    where = sa.text("state != 3")
    op.create_index(
        "ix_subscriptions_since_event", "subscriptions", ["since_event"], postgresql_where=where, sqlite_where=where
    )
