"""Policies of branches have revisions, and rules beside that of compatibility."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add the columns, which servers of the release before leave empty.

    By the index, two transactions cannot set the same revision: one is run again, upon what the other has set.
    """
    op.add_column("branch_policies", sa.Column("revision", sa.Integer))
    op.add_column("branch_policies", sa.Column("rules", sa.LargeBinary))
    op.create_index("ix_branch_policies_revision", "branch_policies", ["model_id", "branch", "revision"], unique=True)
