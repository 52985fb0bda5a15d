"""Grants are what the newest change says."""

from alembic import op

from server.storage.sql.migrations.guards import add_guard, is_postgres

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the trigger to the grants, at COMMIT: the change is recorded after the grant.

    Changes of one grant wait for each other here, so that each is compared with what the others left. A transaction
    that sees the past in place of that, by another isolation, could give again what was taken away since.
    """
    if not is_postgres():
        return
    add_guard(
        "guard_grants",
        declare="""
            changed record;
            held smallint;
            recorded smallint;
        """,
        ask="""
            IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
            PERFORM pg_advisory_xact_lock(hashtextextended(changed.resource_rid || ' ' || changed.principal, 0));
            SELECT g.role INTO held FROM grants g
            WHERE g.resource_rid = changed.resource_rid AND g.principal = changed.principal;
            SELECT c.role INTO recorded FROM grant_changes c
            WHERE c.resource_rid = changed.resource_rid AND c.principal = changed.principal ORDER BY c.id DESC LIMIT 1;
        """,
        holds="""
            held IS NOT DISTINCT FROM recorded AND current_setting('transaction_isolation') = 'read committed'
        """,
        refusal="""
            format('the grant of %s on %s: it is not what the newest record of a change says', changed.principal,
            changed.resource_rid)
        """,
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER guard_grants AFTER INSERT OR UPDATE OR DELETE ON grants"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION guard_grants()"
    )
