"""Policies of folders for the branches of a name, and what a promotion was decided under."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table, and the columns, which servers of the release before leave empty."""
    op.create_table(
        "folder_branch_policies",
        sa.Column("id", KEY, nullable=False),
        sa.Column("folder_rid", TEXT, nullable=False),
        sa.Column("branch", TEXT, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("rules", sa.LargeBinary, nullable=False),
        sa.Column("changed_by", TEXT, nullable=False),
        sa.Column("changed_time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_folder_branch_policies"),
    )
    op.create_index(
        "ix_folder_branch_policies_revision",
        "folder_branch_policies",
        ["folder_rid", "branch", "revision"],
        unique=True,
    )
    op.add_column("promotions", sa.Column("policy_revision", sa.Integer))
    op.add_column("promotions", sa.Column("folder_policy_revision", sa.Integer))
    op.add_column("promotions", sa.Column("promotion_request_rid", TEXT))
    op.add_column("promotions", sa.Column("override", sa.Boolean))
