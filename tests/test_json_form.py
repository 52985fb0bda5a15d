"""The JSON form: what is written, what is read, and what is refused with which words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_tools import protoc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelregistry.v1 import access_service_pb2, model_service_pb2
from modelregistry.v1.access_service_pb2 import ROLE_OWNER, Grant, ListGrantsResponse
from modelregistry.v1.model_api_pb2 import (
    AnyType,
    ArrayType,
    Column,
    DataType,
    DoubleType,
    MapType,
    ModelApi,
    ModelApiInput,
    ParameterType,
    StringType,
    TabularType,
    UnsupportedType,
)
from modelregistry.v1.model_pb2 import (
    Branch,
    CodeRepositorySource,
    ExternalSource,
    Model,
    ModelVersion,
    ModelVersionSource,
    PromotedSource,
)
from modelregistry.v1.model_service_pb2 import (
    ListModelsRequest,
    ListModelsResponse,
    ListModelVersionsResponse,
    PromoteVersionRequest,
)
from server.errors import InvalidArgument
from server.json_form import dumps, from_json, loads, to_json
from tests.strategies import data_types, messages, model_versions

# The example response of the seed, as it stands there
SEED = """
{
"backingRepositories": [
"ri.stemma.main.repository.a1b2c3d4-e5f6-7890-abcd-ef1234567890"
],
"condaRequirements": [
"numpy==1.24.0",
"pandas==2.0.0"
],
"linkedExperiment": "ri.models.main.experiment.abc123",
"modelApi": {
"inputs": [
{
"name": "input_df",
"required": true,
"type": "tabular",
"columns": [
{
"name": "feature_1",
"required": true,
"dataType": {
"type": "double"
}
},
{
"name": "feature_2",
"required": true,
"dataType": {
"type": "integer"
}
}
],
"format": "PANDAS"
}
],
"outputs": [
{
"name": "output_df",
"required": true,
"type": "tabular",
"columns": [
{
"name": "prediction",
"required": true,
"dataType": {
"type": "double"
}
}
],
"format": "SPARK"
}
]
},
"createdTime": "2003-05-06T12:34:56.789Z",
"rid": "ri.models.main.model-version.adf94926-c3ac-41ea-beb2-4946699d08ee"
}
"""

# What a version has beside the seed's keys: plain scalars, which are present even if nothing set them
NOT_IN_SEED = {"modelRid": "", "branch": "", "versionNumber": 0, "createdBy": "", "rootModelVersionRid": ""}


def _classes() -> list[type[Message]]:
    """Every request and response of the services, and the messages that stand in files and in columns."""
    services = [
        *model_service_pb2.DESCRIPTOR.services_by_name.values(),
        *access_service_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    methods = [method for service in services for method in service.methods]
    descriptors = {part.full_name: part for method in methods for part in (method.input_type, method.output_type)}
    for message in (Model, ModelVersion, Branch, ModelApi):
        descriptors[message.DESCRIPTOR.full_name] = message.DESCRIPTOR
    return [GetMessageClass(descriptors[name]) for name in sorted(descriptors)]


each_class = pytest.mark.parametrize("message_class", _classes(), ids=lambda each: each.DESCRIPTOR.name)


def thorough(max_examples: int) -> Callable[[Any], Any]:
    """Examples without a time limit: a machine under load is not a failure."""
    return settings(max_examples=max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def refusal(value: object, message_class: type[Message] = ModelVersion) -> dict[str, str]:
    """What is wrong with a value, by path."""
    with pytest.raises(InvalidArgument) as caught:
        from_json(value, message_class)
    violations = caught.value.violations
    assert violations
    return dict(violations)


def text_refusal(text: str | bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        loads(text)
    ((path, sentence),) = caught.value.violations
    assert path == ""
    return sentence


# There and back


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


# What is written


def test_the_seeds_example_is_read_and_written_key_by_key() -> None:
    seed = json.loads(SEED)

    version = from_json(loads(SEED), ModelVersion)

    assert version.created_time.ToMilliseconds() == 1_052_224_496_789
    assert version.model_api.inputs[0].tabular.columns[1].data_type.WhichOneof("type") == "integer"
    assert to_json(version) == {**seed, **NOT_IN_SEED}
    assert from_json({**seed, **NOT_IN_SEED}, ModelVersion) == version


WRITTEN = [
    (ModelVersion(), {**NOT_IN_SEED, "rid": "", "condaRequirements": [], "backingRepositories": []}),
    (ModelVersion(linked_experiment=""), {**to_json(ModelVersion()), "linkedExperiment": ""}),
    (ModelVersion(source=ModelVersionSource()), {**to_json(ModelVersion()), "source": {}}),
    (ModelApi(), {"inputs": [], "outputs": []}),
    (TabularType(), {"name": "", "columns": []}),
    (TabularType(required=False, format="TABULAR_FORMAT_SPARK"), {
        "name": "", "required": False, "columns": [], "format": "SPARK",
    }),
    (DataType(), {}),
    (DataType(double=DoubleType()), {"type": "double"}),
    (DataType(array=ArrayType()), {"type": "array"}),
    (DataType(array=ArrayType(item_type=DataType())), {"type": "array", "itemType": {}}),
    (
        DataType(map=MapType(key_type=DataType(string=StringType()), value_type=DataType(any=AnyType()))),
        {"type": "map", "keyType": {"type": "string"}, "valueType": {"type": "any"}},
    ),
    (
        DataType(unsupported=UnsupportedType(unsupported_type="struct", params={"type": "x", "snake_case": "ü"})),
        {"type": "unsupported", "unsupportedType": "struct", "params": {"type": "x", "snake_case": "ü"}},
    ),
    (DataType(unsupported=UnsupportedType()), {"type": "unsupported", "unsupportedType": "", "params": {}}),
    (
        ModelApiInput(parameter=ParameterType(name="rate", data_type=DataType(double=DoubleType()))),
        {"type": "parameter", "name": "rate", "dataType": {"type": "double"}},
    ),
    (ModelVersionSource(external=ExternalSource()), {"type": "external"}),
    (
        ModelVersionSource(code_repository=CodeRepositorySource(repository_rid="r", branch="b")),
        {"type": "codeRepository", "repositoryRid": "r", "branch": "b"},
    ),
    (
        ModelVersionSource(promoted=PromotedSource(previous_model_rid="m", previous_model_version_rid="v")),
        {"type": "promoted", "previousModelRid": "m", "previousModelVersionRid": "v"},
    ),
    (ListModelVersionsResponse(), {"data": []}),
    (ListModelsResponse(next_page_token="t"), {"data": [], "nextPageToken": "t"}),
    (Grant(role=ROLE_OWNER), {"resourceRid": "", "principal": "", "role": "OWNER"}),
    (ListGrantsResponse(grants=[Grant()]), {"data": [{"resourceRid": "", "principal": ""}]}),
    (ListModelsRequest(), {"pageSize": 0}),
    (PromoteVersionRequest(preview=True), {"modelRid": "", "sourceModelVersionRid": "", "preview": True}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "value"), WRITTEN, ids=range(len(WRITTEN)))
def test_messages_look_as_the_contract_says(message: Message, value: dict[str, object]) -> None:
    assert to_json(message) == value
    assert from_json(value, type(message)) == message


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (Timestamp(), "1970-01-01T00:00:00.000Z"),
        (Timestamp(seconds=1_052_224_496, nanos=789_000_000), "2003-05-06T12:34:56.789Z"),
        (Timestamp(seconds=-1, nanos=999_000_000), "1969-12-31T23:59:59.999Z"),
        (Timestamp(seconds=-62_135_596_800), "0001-01-01T00:00:00.000Z"),
        (Timestamp(seconds=253_402_300_799, nanos=999_000_000), "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_written_with_exactly_three_decimals(time: Timestamp, text: str) -> None:
    assert to_json(Model(created_time=time))["createdTime"] == text
    assert from_json({"createdTime": text}, Model) == Model(created_time=time)


@pytest.mark.parametrize(
    "message",
    [
        TabularType(format=3),  # type: ignore[arg-type]
        Model(created_time=Timestamp(nanos=1)),
        Model(created_time=Timestamp(nanos=1_000_000_000)),
        Model(created_time=Timestamp(nanos=-1_000_000)),
        Model(created_time=Timestamp(seconds=253_402_300_800)),
        Model(created_time=Timestamp(seconds=2**63 - 1)),
    ],
    ids=str,
)
def test_what_validation_keeps_out_cannot_be_written(message: Message) -> None:
    with pytest.raises(ValueError, match=r"^(must be one of|the time .* is not in whole|Timestamp is not valid)"):
        to_json(message)


def test_text_outside_ascii_is_written_as_itself_in_valid_utf_8() -> None:
    model = Model(name="naïve 模型 🚀 \u2028 \x00")

    text = dumps(model)

    assert "naïve 模型 🚀 \u2028 \\u0000" in text
    assert from_json(loads(text.encode("utf-8")), Model) == model


UNFIT = {
    "an integer of 64 bits": "int64 size = 1;",
    "a number with a fraction": "double rate = 1;",
    "bytes": "bytes digest = 1;",
    "a map of numbers": "map<string, int32> sizes = 1;",
    "a map by number": "map<int32, string> names = 1;",
    "a oneof that is not named type": "oneof kind { Plain plain = 1; }",
    "two oneofs": "oneof type { Plain plain = 1; } oneof kind { Plain other = 2; }",
    "a union of a scalar": "oneof type { string text = 1; }",
    "a union of a union": "oneof type { Union union = 1; }",
    "a union whose member has a type of its own": "oneof type { Typed typed = 1; }",
}


@pytest.mark.parametrize("fields", UNFIT.values(), ids=UNFIT.keys())
def test_message_types_that_have_no_json_form_say_so_on_first_use(fields: str, tmp_path: Path) -> None:
    message_class = _compiled(fields, tmp_path)

    with pytest.raises(TypeError, match=r"^test\.Unfit\."):
        to_json(message_class())
    with pytest.raises(TypeError, match=r"^test\.Unfit\."):
        from_json({}, message_class)


def test_a_message_type_is_written_by_its_descriptor_alone(tmp_path: Path) -> None:
    message_class = _compiled("repeated bool are_open = 1; optional int32 max_size = 2; Union union = 3;", tmp_path)
    value = {"areOpen": [True, False], "maxSize": 0, "union": {"type": "plain", "firstName": ""}}

    assert to_json(from_json(value, message_class)) == value
    assert to_json(message_class()) == {"areOpen": []}


def _compiled(fields: str, folder: Path) -> type[Message]:
    """The class of a message with these fields."""
    file = folder / "unfit.proto"
    file.write_text(
        f"""
        syntax = "proto3";
        package test;
        message Unfit {{ {fields} }}
        message Plain {{ string first_name = 1; }}
        message Typed {{ string type = 1; }}
        message Union {{ oneof type {{ Plain plain = 1; }} }}
        """
    )
    compiled = folder / "unfit.binpb"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={compiled}", str(file)]) == 0
    pool = DescriptorPool()
    pool.Add(FileDescriptorSet.FromString(compiled.read_bytes()).file[0])
    return GetMessageClass(pool.FindMessageTypeByName("test.Unfit"))


# What is read


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


# What is refused


@pytest.mark.parametrize(
    ("value", "path", "sentence"),
    [
        ([], "", "must be an object, not a list"),
        (None, "", "must be an object, not null"),
        ({"rid": 1}, "rid", "must be a string, not 1"),
        ({"rid": True}, "rid", "must be a string, not true"),
        ({"rid": {}}, "rid", "must be a string, not an object"),
        ({"rid": "a\ud800"}, "rid", "'utf-8' codec can't encode character '\\ud800' in position 1"),
        ({"condaRequirements": "numpy"}, "condaRequirements", "must be a list, not 'numpy'"),
        ({"condaRequirements": {}}, "condaRequirements", "must be a list, not an object"),
        ({"condaRequirements": ["a", None]}, "condaRequirements[1]", "must be a string, not null"),
        ({"condaRequirements": ["\udfff"]}, "condaRequirements[0]", "'utf-8' codec can't encode"),
        ({"versionNumber": True}, "versionNumber", "must be a whole number, not true"),
        ({"versionNumber": False}, "versionNumber", "must be a whole number, not false"),
        ({"versionNumber": "1"}, "versionNumber", "must be a whole number, not '1'"),
        ({"versionNumber": 1.0}, "versionNumber", "must be a whole number, not 1.0"),
        ({"versionNumber": float("inf")}, "versionNumber", "must be a whole number, not Infinity"),
        ({"versionNumber": 2**31}, "versionNumber", "2147483648"),
        ({"versionNumber": -(2**31) - 1}, "versionNumber", "-2147483649"),
        (loads(f'{{"versionNumber": {10**99}}}'), "versionNumber", str(10**99)),
        ({"modelApi": []}, "modelApi", "must be an object, not a list"),
        ({"modelApi": {"inputs": {}}}, "modelApi.inputs", "must be a list, not an object"),
        ({"modelApi": {"inputs": ["x"]}}, "modelApi.inputs[0]", "must be an object, not 'x'"),
        ({"modelApi": {"inputs": [None]}}, "modelApi.inputs[0]", "must be an object, not null"),
        ({"source": "sdk"}, "source", "must be an object, not 'sdk'"),
        ({"source": {"branch": "b"}}, "source.type", "must be one of codeRepository, codeWorkspace, external"),
        ({"source": {"type": "legacy"}}, "source.type", "promoted, sdk, not 'legacy'"),
        ({"source": {"type": "code_repository"}}, "source.type", "not 'code_repository'"),
        ({"source": {"type": ["sdk"]}}, "source.type", "not a list"),
        ({"source": {"type": 7}}, "source.type", "not 7"),
        ({"source": {"type": "sdk", "branch": "b"}}, "source.branch", "is not a known key"),
        ({"source": {"type": "sdk", "sdk": {}}}, "source.sdk", "is not a known key"),
        ({"model_rid": "r"}, "model_rid", "is not a known key"),
        ({"nonsense": None}, "nonsense", "is not a known key"),
        ({"type": "x"}, "type", "is not a known key"),
        ({"a key": 1}, '["a key"]', "is not a known key"),
        ({"\ud800": 1}, r'["\ud800"]', "is not a known key"),
        ({"createdTime": 1_052_224_496_789}, "createdTime", "must be a time in whole milliseconds"),
        ({"createdTime": "yesterday"}, "createdTime", "like 2003-05-06T12:34:56.789Z, not 'yesterday'"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_values_are_refused_at_their_path(value: object, path: str, sentence: str) -> None:
    refused = refusal(value)

    assert list(refused) == [path]
    assert sentence in refused[path]


@pytest.mark.parametrize("name", ["UNSPECIFIED", "TABULAR_FORMAT_PANDAS", "pandas", "", "ARROW", 0, 1, True, [], {}])
def test_an_enum_is_one_of_its_bare_names(name: object) -> None:
    refused = refusal({"format": name}, TabularType)

    assert refused["format"].startswith("must be one of PANDAS, SPARK, not ")


@pytest.mark.parametrize("required", [1, 0, "true", []])
def test_a_truth_value_is_true_or_false(required: object) -> None:
    assert refusal({"required": required}, Column)["required"].startswith("must be true or false, not ")


@pytest.mark.parametrize(
    ("params", "path", "sentence"),
    [
        ([], "params", "must be an object, not a list"),
        ({"size": 1}, "params.size", "must be a string, not 1"),
        ({"size": None}, "params.size", "must be a string, not null"),
        ({"a.b[0]": {}}, 'params["a.b[0]"]', "must be a string, not an object"),
        ({"\ud800": "x"}, r'params["\ud800"]', "can't encode"),
        ({"size": "\ud800"}, "params.size", "can't encode"),
    ],
    ids=str,
)
def test_a_map_holds_text_under_any_key(params: object, path: str, sentence: str) -> None:
    refused = refusal({"type": "unsupported", "unsupportedType": "x", "params": params}, DataType)

    assert list(refused) == [path]
    assert sentence in refused[path]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2003-05-06",
        "2003-05-06T12:34:56.789",
        "2003-05-06 12:34:56.789Z",
        "2003-05-06T12:34:56,789Z",
        "2003-05-06T12:34:56.Z",
        "2003-05-06T12:34Z",
        "2003-5-6T12:34:56Z",
        "20030506T123456Z",
        "2003-05-06T12:34:56.789+0100",
        "2003-05-06T12:34:56.789+24:00",
        "2003-05-06T12:34:56.789+01:60",
        "2003-05-06T24:00:00Z",
        "2003-05-06T12:60:00Z",
        "2003-05-06T12:34:60Z",
        "2003-02-29T12:34:56Z",
        "2003-13-06T12:34:56Z",
        "٢٠٠٣-05-06T12:34:56Z",
        "2003-05-06T12:34:56.789Z\n",
        "2003-05-06T12:34:56.7891Z",
        "2003-05-06T12:34:56.000001Z",
        "2003-05-06T12:34:56.789000001Z",
        "0000-12-31T23:59:59Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "10000-01-01T00:00:00Z",
    ],
)
def test_a_time_that_is_not_one_in_whole_milliseconds_is_refused(text: str) -> None:
    refused = refusal({"createdTime": text}, Model)

    assert refused == {
        "createdTime": f"must be a time in whole milliseconds, like 2003-05-06T12:34:56.789Z, not {text!r}"
    }


def test_all_that_is_wrong_is_told_at_once_and_where() -> None:
    value = json.loads(SEED)
    value["rid"] = 7
    value["modelApi"]["inputs"][0]["columns"] += [{}, {"name": 4, "dataType": {"type": "array", "itemType": 1}}]
    value["modelApi"]["outputs"] = [{"type": "tabular", "format": "ARROW", "colour": "red"}]

    refused = refusal(value)

    assert refused == {
        "rid": "must be a string, not 7",
        "modelApi.inputs[0].columns[3].name": "must be a string, not 4",
        "modelApi.inputs[0].columns[3].dataType.itemType": "must be an object, not 1",
        "modelApi.outputs[0].format": "must be one of PANDAS, SPARK, not 'ARROW'",
        "modelApi.outputs[0].colour": "is not a known key",
    }


def test_paths_begin_where_the_value_stands_in_a_larger_document() -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_json({"rid": 1, "x y": 2}, Model, "lines[3].model")

    assert [path for path, _ in caught.value.violations] == ["lines[3].model.rid", 'lines[3].model["x y"]']


def test_long_keys_and_values_are_cut() -> None:
    refused = refusal({"createdTime": "é" * 5000, "k" * 5000: 1})

    assert [len(path) < 120 for path in refused] == [True, True]
    assert all(len(sentence) < 200 for sentence in refused.values())
    assert f"not '{'é' * 100}'…" in refused["createdTime"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Expecting value: line 1 column 1"),
        ("{", "Expecting property name"),
        ('{"a": 1,}', "double quotes"),
        ("{'a': 1}", "double quotes"),
        ('{"a": 1} {}', "Extra data"),
        ('"\x00"', "Invalid control character"),
        ("\ufeff{}", "BOM"),
        ("NaN", "NaN is not a number"),
        ('{"versionNumber": Infinity}', "Infinity is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' occurs twice"),
        ('[{"x": {"a": null, "\\u0061": 1}}]', "the key 'a' occurs twice"),
        ('{"name": "\\ud800"}', "surrogates not allowed"),
        ('{"\\udc00": 1}', "surrogates not allowed"),
        ('["\\udc00\\ud800"]', "surrogates not allowed"),
        ('{"name": "\ud800"}', "surrogates not allowed"),
        (b'{"name": "\xff"}', "can't decode byte 0xff"),
        (b'{"name": "\xed\xa0\x80"}', "can't decode byte 0xed"),
        (b"\xff\xfe{\x00}\x00", "can't decode byte 0xff"),
        ("1" * 101, "is too long"),
        ("1" * 5000, "is too long"),
        ("-" + "1" * 5000, "is too long"),
        ("[" * 10_000 + "]" * 10_000, "recursion"),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, "recursion"),
        ("[" * 100_000, "recursion"),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_text_that_is_not_strict_json_is_refused(text: str | bytes, sentence: str) -> None:
    refused = text_refusal(text)

    assert refused.startswith("the text is not valid JSON: ")
    assert sentence in refused
    assert len(refused.encode()) < 200


def test_escaped_surrogate_pairs_are_the_character_that_they_spell() -> None:
    assert loads('{"name": "\\ud83d\\ude80 \\\\ud800"}') == {"name": "🚀 \\ud800"}


# Depth


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
