"""Each rule in the keywords of JSON Schema, noted beside the rule; tools/openapi writes them into its document.

Validation never reads them. Keywords may allow what the rule refuses, since JSON Schema cannot express all rules (that
names are unique in their list, for one); they never refuse what the rule allows.
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
