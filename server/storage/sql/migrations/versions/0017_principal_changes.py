"""Who disabled which principal, when and why."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "principal_changes",
        sa.Column("id", KEY, nullable=False),
        sa.Column("principal", TEXT, nullable=False),
        sa.Column("reason", TEXT),
        sa.Column("changed_by", TEXT, nullable=False),
        sa.Column("changed_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_principal_changes"),
    )
    op.create_index("ix_principal_changes_principal_id", "principal_changes", ["principal", "id"])
