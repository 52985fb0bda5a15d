"""The promotions of a version in the order in which they are listed."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the index, unless somebody made it beforehand, when nobody had to wait for it."""
    op.create_index(
        "ix_promotions_source_rid_created_time", "promotions", ["source_rid", "created_time", "id"], if_not_exists=True
    )
