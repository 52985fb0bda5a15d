"""Versions are stored with the number that their branch counts, when they are made, and in this order."""

from alembic import op

from server.storage.sql.migrations.guards import IS_UNTIMELY, NOW_MS, add_guard, admit, is_postgres

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the policy and the trigger.

    Where a clock was far ahead, a version may have the time of the one before, or of the newest promotion.
    """
    if not is_postgres():
        return
    admit(
        "versions",
        "counted",
        """
        version_number = (SELECT b.version_count FROM branches b WHERE b.id = versions.branch_id)
        AND created_time >= coalesce((
            SELECT b.created_time FROM versions b
            WHERE b.branch_id = versions.branch_id AND b.version_number = versions.version_number - 1
        ), created_time)
        """,
    )
    add_guard(
        "guard_times",
        declare=f"now_ms bigint := {NOW_MS};",
        holds="""
            NEW.created_time > now_ms AND (
                EXISTS (
                    SELECT FROM versions b WHERE b.branch_id = NEW.branch_id
                    AND b.version_number = NEW.version_number - 1 AND b.created_time = NEW.created_time
                )
                OR NEW.created_time <= (SELECT max(p.created_time) FROM promotions p)
            )
        """,
        refusal="""
            format('version %s: its time, %s ms since the epoch, is more than 10 minutes off the clock of the database'
            ' (%s): set the clock of the server', NEW.rid, NEW.created_time, now_ms)
        """,
    )
    # Asked without a call, since it seldom is so.
    op.execute(
        "CREATE TRIGGER guard_times AFTER INSERT ON versions FOR EACH ROW"
        f" WHEN ({IS_UNTIMELY.format('NEW.created_time')}) EXECUTE FUNCTION guard_times()"
    )
