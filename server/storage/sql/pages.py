"""Rows of large values, of which a page has as many as fit into one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from google.protobuf.message import Message
from sqlalchemy import ColumnElement, FromClause, Select, Table, bindparam, func, or_, select, true

from server.storage.paging import Page
from server.storage.sql.rows import AnyRow

T = TypeVar("T")
M = TypeVar("M", bound=Message)

# What a message adds to one that is in it, at most: a tag and a length.
_OVERHEAD_BYTES = 6


def with_payloads(
    query: Select[*tuple[Any, ...]],
    shared: Table,
    reference: str,
    order: Callable[[Any], Sequence[ColumnElement[Any]]],
    behind: FromClause | None = None,
) -> Select[*tuple[Any, ...]]:
    """The query of rows with their `size`, and with the `payload` of as many as fit into `most_bytes`, a parameter.

    Payloads are in a table that rows share, and a column refers to its key. Those of the other rows are NULL, and are
    not read: a thousand can be larger than memory. Whether a row is one that `fits` is in its column.

    They come behind a row of something else, if that is given: none if there is none, and one of NULLs if only they
    are lacking.
    """
    listed = query.subquery("listed")
    # How much each row and those before it fill.
    filled = func.sum(listed.c.size).over(order_by=order(listed.c), rows=(None, 0)).label("filled")
    measured = select(listed, filled).subquery("measured")
    fits = or_(
        measured.c.filled <= bindparam("most_bytes"),
        measured.c.filled == measured.c.size,  # the first one
    )
    # A subquery for a row and not a join: where PostgreSQL expects more rows than there are, it would rather read all
    # that is shared than look for some of it.
    key = shared.primary_key.columns[0]
    payload = select(shared.c.payload).where(key == measured.c[reference], fits).scalar_subquery()
    return (
        select(measured, fits.label("fits"), payload.label("payload"))
        .select_from(measured if behind is None else behind.outerjoin(measured, true()))
        .order_by(*order(measured.c))
    )


def that_fit(rows: Sequence[AnyRow]) -> Sequence[AnyRow]:
    """The rows that fit into one message."""
    return [row for row in rows if row.fits]


def messages_that_fit(messages: list[M], fitting_bytes: int) -> list[M]:
    """The first messages, one at least, and no more than fit into one message together."""
    filled = accumulate(message.ByteSize() + _OVERHEAD_BYTES for message in messages)
    return messages[: max(1, sum(size <= fitting_bytes for size in filled))]


def page_of(rows: Sequence[AnyRow], kept: Sequence[AnyRow], position: str, to_item: Callable[[AnyRow], T]) -> Page[T]:
    """Make a page of the first rows, the kept ones; what is left of `rows` says that another page follows."""
    following = getattr(kept[-1], position) if len(kept) < len(rows) else None
    return Page([to_item(row) for row in kept], following)
