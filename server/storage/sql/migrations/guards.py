"""Policies and triggers of PostgreSQL that hold records against the role of the servers, as migrations make them.

They bind every role but those that may act as the owner of the table, whose business repairs and imports are. The
function of a trigger runs with the rights of the role that it binds, and names what it needs by a search path of its
own, on which nothing of that role can come first. Nothing in it depends on a setting that such a role may change.
"""

from __future__ import annotations

from alembic import op

# The database's clock in ms since the epoch, and a condition: a time of a server is further off than clocks may be.
NOW_MS = "(date_part('epoch', clock_timestamp()) * 1000)::bigint"
IS_UNTIMELY = f"abs({{}} - {NOW_MS}) > 600000"

_IS_OWNER = "pg_has_role((SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'MEMBER')"


def admit(table: str, policy: str, check: str) -> None:
    """Let in only new rows for which a condition holds, unless the table's owner stores them; all rows can be read.

    It is part of the plan of the INSERT, and so takes a tenth of the time of a trigger.
    """
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY all_can_be_read ON {table} FOR SELECT USING (true)")
    op.execute(f"CREATE POLICY {policy} ON {table} FOR INSERT WITH CHECK ({check})")


def is_postgres() -> bool:
    """Whether the database that is migrated has triggers in PL/pgSQL; SQLite has no roles to bind."""
    return op.get_bind().dialect.name == "postgresql"


def add_guard(name: str, *, declare: str = "", ask: str = "", holds: str, refusal: str) -> None:
    """Make a function for triggers, or another in its place, which refuses what does not hold unless the owner does it.

    `declare` are variables, `ask` statements, `holds` is a condition, and `refusal` an expression for what to tell.
    """
    connection = op.get_bind()
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(
        f"""
        CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql
        SET search_path = pg_catalog, {schema}, pg_temp AS $$
        DECLARE
            {declare}
        BEGIN
            {ask}
            IF {holds} THEN RETURN NULL; END IF;
            IF {_IS_OWNER} THEN RETURN NULL; END IF;
            RAISE insufficient_privilege USING MESSAGE = {refusal};
        END $$
        """
    )
