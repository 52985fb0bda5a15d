"""${message}."""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Run before the servers of this release start; those of the release before go on working."""
    ${upgrades if upgrades else "pass"}
