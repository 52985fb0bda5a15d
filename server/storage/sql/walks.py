"""Walks along an index to the first rows that a list wants, where not every row that is met is wanted.

Some more rows are looked at than are lacking, which is enough for callers who see nearly all of them. For a caller who
sees few models, each of these is then asked for its own first rows; for all others the walk goes on past what is not
wanted, however much that is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from server.storage.sql.rows import AnyRow

Place = TypeVar("Place")

# The first look fetches one more row for each so many that are lacking: most callers see all, and each row that is
# looked at takes a third of the time of one that is listed.
SPARE = 4
# Each next look fetches so many times as many rows, and at most so many.
LOOK_AHEAD = 4
FURTHEST_LOOK = 10_000


def first_wanted(
    look: Callable[[Place, int], Sequence[AnyRow]],
    start: Place,
    count: int,
    *,
    place_of: Callable[[AnyRow], Place],
    has_checks: bool,
    of_few: Callable[[Place, int], Sequence[AnyRow] | None] | None = None,
) -> Sequence[AnyRow]:
    """Return the first wanted rows behind a place, and so many at most.

    `look` returns the next rows behind a place, each with `is_wanted`; if it `has_checks`, not all are. `of_few`
    returns the first wanted ones in another way, or None if that would be too much.
    """
    chosen: list[AnyRow] = []
    place, many = start, count + count // SPARE if has_checks else count
    while True:
        rows = look(place, many)
        chosen += [row for row in rows if row.is_wanted]
        if len(chosen) >= count or len(rows) < many:
            return chosen[:count]
        place = place_of(rows[-1])
        if of_few is not None:
            found = of_few(place, count - len(chosen))
            if found is not None:
                return [*chosen, *found][:count]
            of_few = None
        many = min(LOOK_AHEAD * many, FURTHEST_LOOK)
