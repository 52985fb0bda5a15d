"""There and back: writing and reading are inverse."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from modelregistry.v1.model_api_pb2 import DataType
from modelregistry.v1.model_pb2 import ModelVersion
from server.codec.json_form import dumps, from_json, loads, to_json
from server.core.errors import InvalidArgument
from tests.codec.samples import each_class, thorough
from tests.strategies import data_types, messages, model_versions


@each_class
@thorough(10)
@given(data=st.data())
def test_every_message_comes_back_from_its_json_text(message_class: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(message_class, known_values=True))

    text = dumps(message)

    assert from_json(loads(text), message_class) == message
    assert from_json(loads(text.encode("utf-8")), message_class) == message
    assert from_json(to_json(message), message_class) == message


@each_class
@thorough(8)
@given(data=st.data())
def test_json_comes_back_from_its_message(message_class: type[Message], data: st.DataObject) -> None:
    value = to_json(data.draw(messages(message_class, known_values=True)))

    read = from_json(value, message_class)

    assert to_json(read) == value
    assert to_json(message_class.FromString(read.SerializeToString())) == value


@thorough(25)
@given(model_versions())
def test_valid_versions_come_back_whatever_their_size(version: ModelVersion) -> None:
    assert from_json(loads(dumps(version, indent=2)), ModelVersion) == version


@thorough(40)
@given(data_types())
def test_data_types_come_back_from_any_depth_that_the_contract_allows(data_type: DataType) -> None:
    assert from_json(loads(dumps(data_type)), DataType) == data_type


@thorough(40)
@given(st.data())
def test_spoilt_json_is_refused_or_read_as_a_message_that_protobuf_can_parse(data: st.DataObject) -> None:
    value = to_json(data.draw(messages(ModelVersion, known_values=True, max_depth=6)))
    spoilt = _replace(value, data.draw(st.sampled_from(_places(value))), data.draw(_json_values()))

    try:
        message = from_json(spoilt, ModelVersion)
    except InvalidArgument as error:
        _is_fit_for_a_client(error)
    else:
        assert ModelVersion.FromString(message.SerializeToString()) == message
        assert from_json(to_json(message), ModelVersion) == message


@thorough(200)
@given(st.text() | st.binary() | st.text('{}[]",:\\ud8019eE-.tfnulNaI').map(lambda text: f'{{"a": {text}}}'))
def test_any_text_is_a_value_or_refused(text: str | bytes) -> None:
    try:
        value = loads(text)
    except InvalidArgument as error:
        _is_fit_for_a_client(error)
    else:
        assert json.loads(json.dumps(value, ensure_ascii=False).encode()) == value


def _is_fit_for_a_client(error: InvalidArgument) -> None:
    assert error.violations
    for path, sentence in error.violations:
        assert len(f"{path}: {sentence}".encode()) < 2000


def _json_values() -> st.SearchStrategy[Any]:
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(st.characters())
        | st.sampled_from(["tabular", "double", "map", "PANDAS", "2003-05-06T12:34:56.789Z"])
    )
    keys = st.sampled_from(["type", "name", "columns", "dataType", "itemType", "params"]) | st.text()
    return st.recursive(scalars, lambda part: st.lists(part) | st.dictionaries(keys, part), max_leaves=8)


def _places(value: object, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, item in inside for found in _places(item, (*place, key)))]


def _replace(value: Any, place: tuple[Any, ...], by: object) -> Any:
    if not place:
        return by
    key, *rest = place
    value[key] = _replace(value[key], tuple(rest), by)
    return value
