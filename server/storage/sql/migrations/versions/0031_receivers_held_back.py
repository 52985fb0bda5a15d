"""Receivers of webhooks that are held back, until when."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    """Add the column."""
    op.add_column("delivery_queues", sa.Column("held_until", sa.BigInteger))
