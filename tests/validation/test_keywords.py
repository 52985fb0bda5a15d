"""What JSON Schema says of a rule refuses nothing that the rule allows."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.validation.keywords import keywords_of
from server.validation.table import OF_REQUESTS, RULES
from tests.codec.samples import thorough
from tests.strategies import branch_names, display_names, rids, texts

PRINCIPALS = st.sampled_from(["user:", "group:"]).flatmap(lambda kind: texts(1).map(kind.__add__))
STRINGS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=40),
    texts(),
    branch_names(),
    display_names(),
    PRINCIPALS,
    st.sampled_from(["model", "model-version", "folder", "repository"]).flatmap(rids),
    st.sampled_from(["x" * length for length in (255, 256, 700, 701)]),
)
SAID = {row: rule for row, rule in {**RULES, **OF_REQUESTS}.items() if keywords_of(rule)}


def values(row: str) -> st.SearchStrategy[Any]:
    said = keywords_of(SAID[row])
    if "minimum" in said:
        return st.integers(-5, 2000)
    if "items" in said:
        return st.lists(STRINGS, max_size=3)
    return st.dictionaries(STRINGS, STRINGS, max_size=3) if "propertyNames" in said else STRINGS


@pytest.mark.parametrize("row", [row for row in SAID if row != "CreateModelVersionRequest.source"])
@thorough(60)
@given(data=st.data())
def test_what_a_rule_allows_its_keywords_allow(row: str, data: st.DataObject) -> None:
    value = data.draw(values(row))

    if not list(SAID[row](value)):
        jsonschema.Draft202012Validator(dict(keywords_of(SAID[row]))).validate(value)


def test_most_rules_say_something() -> None:
    assert len(SAID) > 30
