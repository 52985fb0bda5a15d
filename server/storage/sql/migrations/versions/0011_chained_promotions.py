"""Promotions are chained, and recorded when they happen."""

import sqlalchemy as sa
from alembic import op

from server.storage.sql.migrations.guards import IS_UNTIMELY, NOW_MS, add_guard, is_postgres

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the columns, which `migrate` fills afterwards, and a trigger.

    A promotion that has a place in the chain is compared with its version when the chain moves on to it, by 0012. Here
    are the ones of servers of the release before, each of which is that of the version which its branch has just got,
    and those of other times. A transaction in another isolation could take the head of the past for that of now.
    """
    op.add_column("promotions", sa.Column("previous_hash", sa.LargeBinary))
    op.add_column("promotions", sa.Column("hash", sa.LargeBinary))
    op.add_column("promotions", sa.Column("was_imported", sa.Boolean))
    if not is_postgres():
        return
    add_guard(
        "guard_promotions",
        holds=f"""
            current_setting('transaction_isolation') = 'read committed'
            AND (NEW.created_time > {NOW_MS} OR NOT {IS_UNTIMELY.format("NEW.created_time")})
            AND EXISTS (
                SELECT FROM versions v JOIN branches b ON b.id = v.branch_id
                WHERE v.id = NEW.version_id AND v.version_number = b.version_count AND b.model_id = NEW.model_id
                AND v.created_time = NEW.created_time AND v.created_by = NEW.created_by
            )
        """,
        refusal="""
            format('promotion %s: it is not the one that made the head of its branch just now, by the clock of the'
            ' database', NEW.rid)
        """,
    )
    op.execute(
        "CREATE TRIGGER guard_promotions AFTER INSERT ON promotions FOR EACH ROW"
        f" WHEN (NEW.hash IS NULL OR {IS_UNTIMELY.format('NEW.created_time')}) EXECUTE FUNCTION guard_promotions()"
    )
