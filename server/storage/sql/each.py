"""The first rows of each group: group by group, however many rows the groups have."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Connection, FromClause, Join, Select, true


def first_of_each(
    connection: Connection, groups: FromClause, first: Select[*tuple[Any, ...]], key: Column[Any]
) -> tuple[Join, FromClause]:
    """Join groups with the first rows of each, and return the rows' columns, too.

    `first` is the query for those of one group, to a row of which it refers; `key` is their table's primary key. SQLite
    has no LATERAL, and PostgreSQL would not look at the groups one by one without.
    """
    if connection.dialect.name == "postgresql":
        rows: FromClause = first.lateral("first_rows")
        return groups.join(rows, true()), rows
    rows = key.table.alias("first_rows")
    return groups.join(rows, rows.c[key.name].in_(first.with_only_columns(key))), rows
