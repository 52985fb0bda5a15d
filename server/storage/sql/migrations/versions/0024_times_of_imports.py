"""When a version was imported: until then it was no head here, whatever its own time says."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Add the time, which all that was made here lacks, and what was imported before."""
    op.add_column("versions", sa.Column("imported_time", sa.BigInteger))
