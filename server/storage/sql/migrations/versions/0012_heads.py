"""The chain of promotions of each branch, and heads that follow from versions."""

import sqlalchemy as sa
from alembic import op

from server.storage.sql.migrations.guards import add_guard, is_postgres

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the column, and a trigger at COMMIT: servers of the release before count first and store the version then."""
    op.add_column("branches", sa.Column("chain", sa.LargeBinary))
    if not is_postgres():
        return
    # One step at a time, each with its version; 0013 lets in no version that is not counted. So the count is the
    # greatest number of a version, and there is no gap. The chain moves on with the promotion that made that version.
    add_guard(
        "guard_branches",
        holds="""
            (TG_OP = 'INSERT' AND NEW.version_count = 0 AND NEW.chain IS NULL) OR EXISTS (
                SELECT FROM versions v WHERE v.branch_id = NEW.id AND v.version_number = NEW.version_count
                AND NEW.version_count - coalesce(OLD.version_count, 0) IN (0, 1)
                AND (NEW.chain IS NOT DISTINCT FROM OLD.chain OR EXISTS (
                    SELECT FROM promotions p WHERE p.version_id = v.id AND p.hash = NEW.chain
                    AND p.previous_hash = coalesce(OLD.chain, decode(repeat('00', 32), 'hex'))
                    AND p.model_id = NEW.model_id AND p.created_time = v.created_time AND p.created_by = v.created_by
                ))
            )
        """,
        refusal="""
            format('branch %s: its head and its chain follow from its versions and promotions. %s is not the number of'
            ' the newest version, or no promotion that is chained behind the last one made it', NEW.id,
            NEW.version_count)
        """,
    )
    for event, condition in (("INSERT", "true"), ("UPDATE", "NEW.* IS DISTINCT FROM OLD.*")):
        op.execute(
            f"CREATE CONSTRAINT TRIGGER guard_branches_{event.lower()} AFTER {event} ON branches"
            f" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION guard_branches()"
        )
