"""The key for what callers carry without reading it: positions, and names in lineages."""

import os

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

KEY_BYTES = 16


def upgrade() -> None:
    """Add the table, and a key that nobody knows."""
    keys = op.create_table(
        "opaque_keys",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_opaque_keys"),
    )
    op.bulk_insert(keys, [{"id": 1, "key": os.urandom(KEY_BYTES)}])
