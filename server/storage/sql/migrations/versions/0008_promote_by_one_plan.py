"""Promotions at once keep one plan for each of their statements. It changes no table.

For values that it knows, PostgreSQL expects a little less of a plan than for any. In a large registry the difference
was enough that it planned the statements anew for each promotion. They ask along unique indexes, so one plan is right
for all values. What the function does stays the same, and so does its name: servers of the release before call it
meanwhile.
"""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Set it for the function alone: a page's plan is better for knowing how long the page is."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER FUNCTION promote_at_once_1 SET plan_cache_mode = force_generic_plan")
