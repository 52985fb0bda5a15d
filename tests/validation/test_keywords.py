"""What JSON Schema says of a rule refuses nothing that the rule allows."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import example, given
from hypothesis import strategies as st

from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest
from server.codec.json_form import to_json
from server.validation.keywords import keywords_of
from server.validation.rules import lasting
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
# Whose keywords are about the JSON form of a message.
OF_MESSAGES = {"CreateModelVersionRequest.source", *(row for row, rule in RULES.items() if rule is lasting)}
SAID = {row: rule for row, rule in {**RULES, **OF_REQUESTS}.items() if keywords_of(rule)}


def values(row: str) -> st.SearchStrategy[Any]:
    said = keywords_of(SAID[row])
    if "minimum" in said:
        return st.integers(-5, 2000)
    if "items" in said:
        return st.lists(STRINGS, max_size=3)
    return st.dictionaries(STRINGS, STRINGS, max_size=3) if "propertyNames" in said else STRINGS


@pytest.mark.parametrize(
    "row", [row for row in SAID if row != "CreateModelVersionRequest.source" and SAID[row] != lasting]
)
@thorough(60)
@given(data=st.data())
def test_what_a_rule_allows_its_keywords_allow(row: str, data: st.DataObject) -> None:
    value = data.draw(values(row))

    if not list(SAID[row](value)):
        jsonschema.Draft202012Validator(dict(keywords_of(SAID[row]))).validate(value)


@thorough(200)
@given(st.integers(-5, 2 * 10**9), st.integers(0, 1001))
@example(0, 1)
@example(10**9 - 1, 999)
def test_a_duration_that_is_allowed_has_a_form_that_its_keywords_allow(seconds: int, milliseconds: int) -> None:
    duration = Duration(seconds=seconds, nanos=milliseconds * 1_000_000)

    if not list(lasting(duration)):
        form = to_json(SetBranchPolicyRequest(min_time_as_head=duration))["minTimeAsHead"]
        jsonschema.Draft202012Validator(dict(keywords_of(lasting))).validate(form)


def test_most_rules_say_something() -> None:
    assert len(SAID) > 30
