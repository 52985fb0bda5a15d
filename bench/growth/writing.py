"""Writes many rows into a database, as fast as each kind of database lets us."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import sql
from sqlalchemy import Connection, Table, insert

_CHUNK = 10_000

Row = dict[str, Any]


class Writer:
    """Writes rows over one connection. All rows of a table have the same columns."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """Write all the rows."""
        pending = self.into(table)
        for row in rows:
            pending.add(row)
        pending.flush()

    def into(self, table: Table, behind: Pending | None = None) -> Pending:
        """Return where to put rows for a table. They are written behind those of another one that they refer to."""
        return Pending(self, table, behind)

    def write(self, table: Table, rows: list[Row]) -> None:
        """Write some rows at once."""
        if self._connection.dialect.name != "postgresql":
            self._connection.execute(insert(table), rows)
            return
        columns = sql.SQL(", ").join(map(sql.Identifier, rows[0]))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), columns)
        with self._connection.connection.cursor().copy(statement) as copy:
            for row in rows:
                copy.write_row(tuple(row.values()))


class Pending:
    """Rows that are collected, and written when they are many."""

    def __init__(self, writer: Writer, table: Table, behind: Pending | None):
        self._writer = writer
        self._table = table
        self._behind = behind
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Take a row."""
        self._rows.append(row)
        if len(self._rows) == _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what is there."""
        if self._behind is not None:
            self._behind.flush()
        if self._rows:
            self._writer.write(self._table, self._rows)
            self._rows = []
