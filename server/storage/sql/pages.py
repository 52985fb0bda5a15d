"""Rows of large values, of which a page has as many as fit into one message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from google.protobuf.message import Message
from sqlalchemy import ColumnElement, FromClause, Select, select, true

from server.core.errors import StorageUnavailable
from server.storage.paging import Page
from server.storage.sql.rows import AnyRow
from server.storage.sql.session import Session
from server.storage.sql.statements import Statement, numbered, padded
from server.storage.unavailable import DatabaseUnsuitable

T = TypeVar("T")
M = TypeVar("M", bound=Message)

# What a message adds to one that is in it, at most: a tag and a length.
_OVERHEAD_BYTES = 6


def listed_behind(
    query: Select[*tuple[Any, ...]], order: Callable[[Any], Sequence[ColumnElement[Any]]], behind: FromClause
) -> Select[*tuple[Any, ...]]:
    """The query of rows behind a row of something else: none if there is none, and one of NULLs if only they lack."""
    listed = query.subquery("listed")
    return select(listed).select_from(behind.outerjoin(listed, true())).order_by(*order(listed.c))


def that_fit(items: Sequence[T], sizes: Iterable[int], fitting_bytes: int) -> Sequence[T]:
    """The first items, one at least, and no more than fit into one message together, by their sizes as messages."""
    filled = accumulate(size + _OVERHEAD_BYTES for size in sizes)
    return items[: max(1, sum(size <= fitting_bytes for size in filled))]


def payloads(session: Session, statement: Callable[[int], Statement], keys: Iterable[Any]) -> dict[Any, AnyRow]:
    """Return the rows of payloads that others refer to, by their keys: each is read once, whatever refers to it.

    `statement` is the one for so many of them, whose first column is the key. Only what fits into a message is asked
    for: a thousand payloads can be larger than memory. Raises StorageUnavailable if one is not there.
    """
    named = [*dict.fromkeys(key for key in keys if key is not None)]
    if not named:
        return {}
    count = len(named)
    named = padded(named)
    found = {row[0]: row for row in session.all(statement(len(named)), numbered("key", named))}
    if len(found) < count:
        raise StorageUnavailable(retry_after=None) from DatabaseUnsuitable(
            "a row is missing that others refer to: restore it from a backup; `modelregistry fsck` says what else is"
            " wrong"
        )
    return found


def messages_that_fit(messages: list[M], fitting_bytes: int) -> list[M]:
    """The first messages, one at least, and no more than fit into one message together."""
    return [*that_fit(messages, (message.ByteSize() for message in messages), fitting_bytes)]


def page_of(rows: Sequence[AnyRow], kept: Sequence[AnyRow], position: str, to_item: Callable[[AnyRow], T]) -> Page[T]:
    """Make a page of the first rows, the kept ones; what is left of `rows` says that another page follows."""
    following = getattr(kept[-1], position) if len(kept) < len(rows) else None
    return Page([to_item(row) for row in kept], following)
