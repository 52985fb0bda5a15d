"""What an HTTP request stands for: every message that has a route can be said, and nothing breaks on what cannot."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from server.codec.json_form import to_json
from server.core.errors import InvalidArgument
from server.gateway.requests import request_of, wants_preview
from server.gateway.routes import Route, routes_of
from server.rpc.server import SERVICES
from tests.codec.samples import thorough
from tests.strategies import messages

ROUTES = routes_of(SERVICES)
each_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.method.name)


def in_query(value: object) -> Any:
    if isinstance(value, list):
        return [in_query(each) for each in value]
    return value if isinstance(value, str) else json.dumps(value)


def parts_of(route: Route, message: Message) -> tuple[dict[str, str], str, bytes]:
    """The path values, query and body with which a client says a message."""
    values: dict[str, Any] = to_json(message)
    path = {key: quote(values.pop(key, ""), safe="") for key in route.path_fields}
    query = {key: in_query(values.pop(key)) for key in [*route.query_fields, "preview"] if key in values}
    assert route.has_body or not values
    return path, urlencode(query, doseq=True), json.dumps(values).encode() if route.has_body else b""


@each_route
@thorough(15)
@given(data=st.data())
def test_every_routed_request_comes_back_from_its_path_query_and_body(route: Route, data: st.DataObject) -> None:
    message = data.draw(messages(route.request_type, known_values=True))

    path, query, body = parts_of(route, message)

    assert request_of(route, path, query, body) == message


@each_route
@thorough(30)
@given(
    path=st.text("%0aF/éri.-", max_size=12),
    query=st.text("preview=true&%0Fbranch;+", max_size=30) | st.text(st.characters(codec="ascii"), max_size=30),
    body=st.binary(max_size=40) | st.text('{}[]",:aé1e-', max_size=40).map(str.encode),
)
def test_whatever_is_sent_is_a_message_or_an_invalid_argument(route: Route, path: str, query: str, body: bytes) -> None:
    try:
        message = request_of(route, dict.fromkeys(route.path_fields, path), query, body)
    except InvalidArgument as error:
        _says_what_is_wrong(error)
    else:
        assert route.request_type.FromString(message.SerializeToString()) == message
        if route.is_in_preview:
            assert message.preview == wants_preview(query)


def test_what_the_path_says_cannot_be_said_in_the_body() -> None:
    (promote,) = [route for route in ROUTES if route.method.name == "PromoteVersion"]

    with pytest.raises(InvalidArgument) as raised:
        request_of(promote, {"modelRid": "a"}, "preview=true", b'{"modelRid": "b", "preview": true}')

    assert {violation.field for violation in raised.value.violations} == {"modelRid", "preview"}


def test_preview_is_ignored_where_a_request_has_no_such_field() -> None:
    (get,) = [route for route in ROUTES if route.method.name == "GetModel"]

    assert request_of(get, {"modelRid": "a"}, "preview=true", b"") == get.request_type(model_rid="a")


@pytest.mark.parametrize("text", ["7", "7.0", "7e0", "700E-2", "0.7e%2B1", "007"])
def test_a_number_in_a_query_is_whole_as_in_a_body(text: str) -> None:
    (promotions,) = [route for route in ROUTES if route.method.name == "ListPromotions"]

    assert request_of(promotions, {}, f"pageSize={text}", b"").page_size == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["1.5", "", "one", "1e", "0x1", "1_0", " 1", "1e999999999", "Infinity", "2147483648"])
def test_what_is_no_such_number_in_a_query_is_refused_as_it_was_sent(text: str) -> None:
    (promotions,) = [route for route in ROUTES if route.method.name == "ListPromotions"]

    with pytest.raises(InvalidArgument) as raised:
        request_of(promotions, {}, urlencode({"pageSize": text}), b"")

    (violation,) = raised.value.violations
    assert (violation.field, text in violation.description) == ("pageSize", True)


def _says_what_is_wrong(error: InvalidArgument) -> None:
    assert error.violations
    assert all(violation.description for violation in error.violations)
