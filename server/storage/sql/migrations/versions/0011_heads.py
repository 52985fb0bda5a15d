"""The chain of promotions of each branch, and heads that follow from versions."""

import sqlalchemy as sa
from alembic import op

from server.storage.sql.migrations.guards import add_guard, is_postgres

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column, and a trigger at COMMIT: servers of the release before count first and store the version then."""
    op.add_column("branches", sa.Column("chain", sa.LargeBinary))
    if not is_postgres():
        return
    # One step at a time, each with its version; 0012 lets in no version that is not counted. So the count is the
    # greatest number of a version, and there is no gap. The chain moves on with the promotion that made that version.
    add_guard(
        "guard_branches",
        ask="""
            IF TG_OP = 'UPDATE' AND (NEW.version_count, NEW.chain) IS NOT DISTINCT FROM (OLD.version_count, OLD.chain)
            THEN RETURN NULL; END IF;
        """,
        holds="""
            (TG_OP = 'INSERT' AND NEW.version_count = 0 AND NEW.chain IS NULL) OR EXISTS (
                SELECT FROM versions v
                LEFT JOIN versions b ON b.branch_id = v.branch_id AND b.version_number = v.version_number - 1
                WHERE v.branch_id = NEW.id AND v.version_number = NEW.version_count
                AND NEW.version_count - coalesce(OLD.version_count, 0) IN (0, 1)
                AND v.created_time >= coalesce(b.created_time, v.created_time)
                AND (NEW.chain IS NOT DISTINCT FROM OLD.chain OR EXISTS (
                    SELECT FROM promotions p WHERE p.version_id = v.id AND p.hash = NEW.chain
                    AND p.previous_hash = coalesce(OLD.chain, decode(repeat('00', 32), 'hex'))
                ))
            )
        """,
        refusal="""
            format('branch %s: its head and its chain follow from its versions and promotions. %s is not the number of'
            ' the newest version, or that is older than the one before, or no promotion that is chained behind the last'
            ' one made it', NEW.id, NEW.version_count)
        """,
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER guard_branches AFTER INSERT OR UPDATE ON branches DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION guard_branches()"
    )
