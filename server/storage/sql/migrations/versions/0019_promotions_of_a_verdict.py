"""The promotions that cite a verdict: to be removed, it must have none. It is a migration of its own for its lock."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add the index, unless it was made beforehand. Most promotions cite none, and take nothing in it."""
    cites = sa.text("verdict_id IS NOT NULL")
    op.create_index(
        "ix_promotions_verdict_id",
        "promotions",
        ["verdict_id"],
        postgresql_where=cites,
        sqlite_where=cites,
        if_not_exists=True,
    )
