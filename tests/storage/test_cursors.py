"""Names and positions that tell nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import InvalidPageToken
from server.storage.sql.cursors import Cursors

SECRET, OTHER_SECRET = bytes(16), bytes(range(16))

keys = st.integers(0, 2**63 - 1)
numbers = st.integers(-(2**63), 2**63 - 1)


@given(first=numbers, second=keys)
def test_a_position_is_read_back_under_the_key_it_was_made_with(first: int, second: int) -> None:
    position = Cursors(SECRET).position(first, second)
    assert Cursors(SECRET).numbers(position) == (first, second)
    assert Cursors(OTHER_SECRET).position(first, second) != position


@given(context=keys, key=keys, other=keys)
def test_a_name_is_no_position_and_another_one_in_another_context(context: int, key: int, other: int) -> None:
    opaque = Cursors(SECRET)
    name = opaque.name(context, key)
    assert (opaque.name(other, key) == name) == (other == context)
    with pytest.raises(InvalidPageToken):
        opaque.numbers(name)


@given(st.text() | st.integers())
def test_whatever_is_given_as_a_position_is_refused_or_two_numbers(position: str | int) -> None:
    try:
        first, second = Cursors(SECRET).numbers(position)
    except InvalidPageToken:
        return
    assert -(2**63) <= first < 2**63
    assert 0 <= second < 2**63


@given(first=numbers, second=keys, more=st.text("ABCDwxyz", min_size=1, max_size=24))
def test_a_position_with_something_added_is_none(first: int, second: int, more: str) -> None:
    opaque = Cursors(SECRET)
    position = opaque.position(first, second)
    for changed in (position + more, position[:-1] + chr(ord(position[-1]) + 1)):
        with pytest.raises(InvalidPageToken):
            opaque.numbers(changed)
