"""How many bytes an upload has, and whether a version has named it: one that none names gives its bytes back."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add what servers of the release before leave out: what they upload meanwhile does not count."""
    op.add_column("uploads", sa.Column("size", sa.BigInteger))
    op.add_column("uploads", sa.Column("is_named", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("ix_uploads_caller_expire_time", "uploads", ["caller", "expire_time"])
