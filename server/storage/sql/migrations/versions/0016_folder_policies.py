"""Who owns the models that are created in a folder, by the folder's choice."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "folder_policies",
        sa.Column("id", KEY, nullable=False),
        sa.Column("folder_rid", TEXT, nullable=False),
        sa.Column("new_model_owner", sa.SmallInteger, nullable=False),
        sa.Column("changed_by", TEXT, nullable=False),
        sa.Column("changed_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_folder_policies"),
    )
    op.create_index("ix_folder_policies_folder_rid_id", "folder_policies", ["folder_rid", "id"])
