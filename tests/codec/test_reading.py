"""What is read, and how deep."""

from __future__ import annotations

import pytest

from modelregistry.v1.model_api_pb2 import Column, DataType, ModelApi
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.model_service_pb2 import ListModelVersionsResponse
from server.codec.json_form import dumps, from_json, loads, to_json
from tests.codec.samples import refusal


def test_missing_keys_leave_their_fields_unset() -> None:
    assert from_json({}, ModelVersion) == ModelVersion()


def test_null_counts_as_absent_for_every_key() -> None:
    value = dict.fromkeys([*to_json(ModelVersion()), "modelApi", "source", "linkedExperiment", "createdTime"])

    assert from_json(value, ModelVersion) == ModelVersion()
    assert from_json({"type": None}, DataType) == DataType()


def test_an_empty_object_is_a_message_that_is_there() -> None:
    column = from_json({"dataType": {}}, Column)

    assert column.HasField("data_type")
    assert column.data_type.WhichOneof("type") is None
    assert not from_json({}, Column).HasField("data_type")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("1.0", 1), ("1e2", 100), ("1.5E+1", 15), ("700e-2", 7), ("-3.0", -3), ("1." + "0" * 1000, 1)),
        *(("2147483647.0", 2**31 - 1), ("-2.147483648e9", -(2**31))),
        *((zero, 0) for zero in ("-0", "-0.0", "0e5", "0e999999999", "0.0e-999999999")),
    ],
)
def test_a_number_is_whole_however_it_is_written(text: str, number: int) -> None:
    assert from_json(loads(f'{{"versionNumber": {text}}}'), ModelVersion).version_number == number


@pytest.mark.parametrize(
    "text",
    [
        "2003-05-06T12:34:56.789Z",
        "2003-05-06t12:34:56.789z",
        "2003-05-06T12:34:56.789000000Z",
        "2003-05-06T14:04:56.789+01:30",
        "2003-05-06T12:34:56.789-00:00",
        "2003-05-05T12:35:56.789-23:59",
    ],
)
def test_a_time_may_be_given_in_any_way_of_rfc_3339(text: str) -> None:
    assert from_json({"createdTime": text}, Model).created_time.ToMilliseconds() == 1_052_224_496_789


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("1970-01-01T00:00:01Z", 1000), ("1970-01-01T00:00:01.5Z", 1500), ("1970-01-01T00:00:01.5000Z", 1500)],
)
def test_a_time_may_have_fewer_decimals_or_more_that_are_zero(text: str, milliseconds: int) -> None:
    assert from_json({"createdTime": text}, Model).created_time.ToMilliseconds() == milliseconds


def _nested(levels: int) -> dict[str, object]:
    """A data type of so many levels, each of which is two messages: itself and its member."""
    value: dict[str, object] = {"type": "long"}
    for _ in range(levels - 1):
        value = {"type": "array", "itemType": value}
    return value


def test_what_is_read_can_be_parsed_by_protobuf_to_the_last_level() -> None:
    # With the version, its Model API, the input and the parameter: 90 messages inside each other
    version = {"modelApi": {"inputs": [{"type": "parameter", "dataType": _nested(43)}]}}

    read = from_json(version, ModelVersion)

    page = ListModelVersionsResponse(model_versions=[read])
    assert ListModelVersionsResponse.FromString(page.SerializeToString()) == page
    assert from_json(loads(dumps(read)), ModelVersion) == read


def test_one_message_too_deep_is_neither_read_nor_written() -> None:
    # With the Model API, the input and the parameter: 91 messages inside each other
    api = ModelApi()
    deepest = api.inputs.add().parameter.data_type
    for _ in range(43):
        deepest = deepest.array.item_type
    deepest.long.SetInParent()

    with pytest.raises(ValueError, match="messages are nested deeper than 90"):
        to_json(api)
    refused = refusal({"inputs": [{"type": "parameter", "dataType": _nested(44)}]}, ModelApi)
    assert refused == {"inputs[0].dataType" + ".itemType" * 43: "is nested deeper than 90 messages"}


@pytest.mark.parametrize("levels", [46, 200, 5000])
def test_deeper_messages_are_refused_where_it_gets_too_deep(levels: int) -> None:
    refused = refusal(_nested(levels), DataType)

    assert refused == {".".join(["itemType"] * 45): "is nested deeper than 90 messages"}


def test_depth_in_the_wrong_place_is_no_reason_to_look_into_it() -> None:
    deep: list[object] = []
    for _ in range(50_000):
        deep = [deep]

    assert refusal({"rid": deep, "condaRequirements": [deep], "params": deep}) == {
        "rid": "must be a string, not a list",
        "condaRequirements[0]": "must be a string, not a list",
        "params": "is not a known key",
    }
