"""When a verdict was made, so that those which no promotion cites can be removed after a while."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add the time. Servers of the release before leave it out, and what they store counts as old, as all of before."""
    op.add_column("verdicts", sa.Column("created_time", sa.BigInteger, nullable=False, server_default="0"))
