"""Changes of grants are recorded when they happen, and with nothing else."""

from alembic import op

from server.storage.sql.migrations.guards import IS_UNTIMELY, NOW_MS, add_guard, is_postgres

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the trigger of 0014, in a migration of its own since it locks another table, and one for the time."""
    if not is_postgres():
        return
    op.execute(
        "CREATE CONSTRAINT TRIGGER guard_grants AFTER INSERT ON grant_changes"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION guard_grants()"
    )
    add_guard(
        "guard_grant_changes",
        declare=f"now_ms bigint := {NOW_MS};",
        # Where a clock was far ahead, no time is before that of the newest promotion.
        holds="NEW.changed_time > now_ms AND NEW.changed_time <= (SELECT max(p.created_time) FROM promotions p)",
        refusal="""
            format('a change of a grant on %s: its time, %s ms since the epoch, is more than 10 minutes off the clock'
            ' of the database (%s): set the clock of the server', NEW.resource_rid, NEW.changed_time, now_ms)
        """,
    )
    op.execute(
        "CREATE TRIGGER guard_grant_changes AFTER INSERT ON grant_changes FOR EACH ROW"
        f" WHEN ({IS_UNTIMELY.format('NEW.changed_time')}) EXECUTE FUNCTION guard_grant_changes()"
    )
