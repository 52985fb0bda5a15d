"""The head of a branch is compared with the one promotion that made it, whatever PostgreSQL knows of the table."""

from server.storage.sql.migrations.guards import add_guard, is_postgres

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Replace the condition of 0012 by the same in another form.

    There, PostgreSQL chose the index: where it took promotions for few, as a session does that has made its plans in an
    empty registry, it read all promotions into the model, at each COMMIT.
    """
    if not is_postgres():
        return
    add_guard(
        "guard_branches",
        holds="""
            (TG_OP = 'INSERT' AND NEW.version_count = 0 AND NEW.chain IS NULL) OR EXISTS (
                SELECT FROM versions v WHERE v.branch_id = NEW.id AND v.version_number = NEW.version_count
                AND NEW.version_count - coalesce(OLD.version_count, 0) IN (0, 1)
                AND (NEW.chain IS NOT DISTINCT FROM OLD.chain OR (
                    SELECT p.hash = NEW.chain
                    AND p.previous_hash = coalesce(OLD.chain, decode(repeat('00', 32), 'hex'))
                    AND p.model_id = NEW.model_id AND p.created_time = v.created_time AND p.created_by = v.created_by
                    FROM promotions p WHERE p.version_id = v.id
                ))
            )
        """,
        refusal="""
            format('branch %s: its head and its chain follow from its versions and promotions. %s is not the number of'
            ' the newest version, or no promotion that is chained behind the last one made it', NEW.id,
            NEW.version_count)
        """,
    )
