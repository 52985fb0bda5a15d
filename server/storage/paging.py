"""Pages of ordered lists, and their tokens: opaque positions, bound to the query that handed them out.

A token holds no secret and grants nothing: with a forged one, a caller only chooses where a page begins.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any, Generic, NamedTuple, TypeVar

from server.core.errors import InvalidPageToken

T = TypeVar("T")

# Where a page ends: the value of the column that the list is ordered by.
Position = str | int

DEFAULT_PAGE_SIZE = 100
_DIGEST_BYTES = 9
# No list is longer: version numbers are 32 bits wide.
_MAX_POSITION = 2**31


class PageRequest(NamedTuple):
    """At most `size` items, beginning behind the position `after`."""

    size: int
    after: Position | None = None


class Page(NamedTuple, Generic[T]):
    """Items in order, and where the next page begins: None if nothing is left."""

    items: list[T]
    next_position: Position | None


class Paging:
    """The pages of one query: its name, its arguments, and the type of its positions."""

    def __init__(self, position_type: type[Position], *query: str | int | None):
        self._position_type = position_type
        self._query = json.dumps(query)

    def page_request(self, page_size: int, page_token: str) -> PageRequest:
        """Return which page is asked for; size 0 means 100, an empty token the first page.

        Raises InvalidPageToken for a token that this query did not hand out.
        """
        after = self._position(page_token) if page_token else None
        return PageRequest(page_size or DEFAULT_PAGE_SIZE, after)

    def next_token(self, page: Page[Any]) -> str | None:
        """Return the token for the page that follows; None after the last page."""
        return None if page.next_position is None else self.token(page.next_position)

    def token(self, position: Position) -> str:
        """Return the token for the page behind a position."""
        payload = json.dumps(position, ensure_ascii=False).encode()
        digest = hashlib.sha256(self._query.encode() + payload).digest()[:_DIGEST_BYTES]
        return base64.urlsafe_b64encode(digest + payload).decode().rstrip("=")

    def _position(self, page_token: str) -> Position:
        try:
            padded = page_token + "=" * (-len(page_token) % 4)
            payload = base64.b64decode(padded, altchars=b"-_", validate=True)[_DIGEST_BYTES:]
            position = json.loads(payload)
            genuine = self._is_position(position) and self.token(position) == page_token
        except (ValueError, binascii.Error, RecursionError):
            genuine = False
        if not genuine:
            raise InvalidPageToken(page_token=page_token)
        return position  # type: ignore[no-any-return]

    def _is_position(self, value: object) -> bool:
        """Whether the storage can look for it: databases know neither larger numbers nor NUL."""
        if type(value) is not self._position_type:
            return False
        return 0 <= value < _MAX_POSITION if isinstance(value, int) else "\0" not in value
