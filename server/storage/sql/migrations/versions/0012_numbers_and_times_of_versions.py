"""Versions come one after the other, by number and by time."""

from alembic import op

from server.storage.sql.migrations.guards import MAX_SKEW_MS, add_guard, is_postgres

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the trigger. A version may have the time of the one before, even where a clock was wrong then."""
    if not is_postgres():
        return
    add_guard(
        "guard_versions",
        declare="""
            counted integer;
            previous_ms bigint;
            now_ms bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
        """,
        ask="""
            SELECT b.version_count, coalesce(v.created_time, 0) INTO counted, previous_ms
            FROM branches b LEFT JOIN versions v ON v.branch_id = b.id AND v.version_number = NEW.version_number - 1
            WHERE b.id = NEW.branch_id;
        """,
        holds=f"""
            counted = NEW.version_number AND NEW.created_time >= previous_ms
            AND NEW.created_time >= now_ms - {MAX_SKEW_MS}
            AND (NEW.created_time <= now_ms + {MAX_SKEW_MS} OR NEW.created_time = previous_ms)
        """,
        refusal="""
            CASE WHEN counted = NEW.version_number THEN
                format('version %s: its time, %s ms since the epoch, is before that of the version before (%s), or more'
                ' than 10 minutes off the clock of the database (%s): set the clock of the server', NEW.rid,
                NEW.created_time, previous_ms, now_ms)
            ELSE
                format('version %s: its number, %s, is not the one that its branch counts', NEW.rid, NEW.version_number)
            END
        """,
    )
    op.execute("CREATE TRIGGER guard_versions AFTER INSERT ON versions FOR EACH ROW EXECUTE FUNCTION guard_versions()")
