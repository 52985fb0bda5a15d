"""The promotions into a model in the order of their keys, in which a reader goes on from the last one."""

from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    """Add the index, unless it was made beforehand."""
    op.create_index("ix_promotions_model_id_id", "promotions", ["model_id", "id"], if_not_exists=True)
