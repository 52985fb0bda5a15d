"""What JSON Schema can say of the rules, for those who describe the HTTP interface.

The keywords judge nothing. They never refuse what the rule allows, but can allow what it refuses: that names are unique
in their list has no keyword.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Keywords = Mapping[str, object]

_R = TypeVar("_R", bound=Callable[[Any], Any])

_KEYWORDS: dict[object, Keywords] = {}


def says(keywords: Keywords) -> Callable[[_R], _R]:
    """Note the keywords of a rule."""

    def note(rule: _R) -> _R:
        _KEYWORDS[rule] = keywords
        return rule

    return note


def keywords_of(rule: Callable[[Any], Any] | None) -> Keywords:
    """Return what JSON Schema can say of a rule, such as `{"minLength": 1}`; at worst nothing."""
    return _KEYWORDS.get(rule, {})
