"""What JSON Schema can say of the rules, for those who describe the HTTP interface.

The keywords judge nothing. They never refuse what the rule allows, but can allow what it refuses: that names are unique
in their list has no keyword.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Keywords = Mapping[str, object]

R = TypeVar("R", bound=Callable[[Any], Any])


def says(keywords: Keywords) -> Callable[[R], R]:
    """Note the keywords of a rule."""

    def note(rule: R) -> R:
        rule.keywords = keywords  # type: ignore[attr-defined]
        return rule

    return note


def keywords_of(rule: Callable[[Any], Any] | None) -> Keywords:
    """Return what JSON Schema can say of a rule, such as `{"minLength": 1}`; at worst nothing."""
    keywords: Keywords = getattr(rule, "keywords", {})
    return keywords
