"""One index for the promotions of a version: the newer one begins like the older one.

It is a migration of its own, since it takes a stronger lock: who held the weaker one and asked for this could wait for
a call that waits for them.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Drop the older index, which takes a moment."""
    op.drop_index("ix_promotions_source_rid", "promotions")
