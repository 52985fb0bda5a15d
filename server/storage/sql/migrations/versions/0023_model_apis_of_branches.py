"""The distinct Model APIs that heads of a branch have had while its policy compares with all of them."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table. It has no foreign key to contents: that would lock a second table that is in use."""
    op.create_table(
        "branch_model_apis",
        sa.Column("branch_id", KEY, nullable=False),
        sa.Column("level_rid", TEXT, nullable=False),
        sa.Column("since_revision", sa.Integer, nullable=False),
        sa.Column("version_number", sa.Integer, nullable=False),
        sa.Column("api_digest", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint(
            "branch_id", "level_rid", "since_revision", "version_number", name="pk_branch_model_apis"
        ),
        sa.ForeignKeyConstraint(
            ["branch_id", "version_number"],
            ["versions.branch_id", "versions.version_number"],
            name="fk_branch_model_apis_branch_id_versions",
        ),
    )
