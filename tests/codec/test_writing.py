"""What is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_tools import protoc

from modelregistry.v1.access_service_pb2 import (
    ROLE_OWNER,
    Grant,
    GrantChange,
    ListGrantChangesResponse,
    ListGrantsResponse,
)
from modelregistry.v1.model_api_pb2 import (
    AnyType,
    ArrayType,
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
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest
from server.codec.json_form import dumps, from_json, loads, to_json
from tests.codec.samples import NOT_IN_SEED, SEED


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
    (
        ListGrantChangesResponse(changes=[GrantChange()]),
        {"data": [{"resourceRid": "", "principal": "", "changedBy": ""}]},
    ),
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
    ("duration", "text"),
    [
        (Duration(), "0s"),
        (Duration(seconds=604_800), "604800s"),
        (Duration(seconds=1, nanos=500_000_000), "1.500s"),
        (Duration(nanos=1_000_000), "0.001s"),
    ],
)
def test_durations_are_written_as_protobuf_has_them(duration: Duration, text: str) -> None:
    request = SetBranchPolicyRequest(min_time_as_head=duration)
    assert to_json(request)["minTimeAsHead"] == text
    assert from_json({"minTimeAsHead": text}, SetBranchPolicyRequest) == request


@pytest.mark.parametrize(
    "message",
    [
        SetBranchPolicyRequest(min_time_as_head=Duration(nanos=1)),
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
    with pytest.raises(
        ValueError, match=r"^(must be one of|the (time|duration) .* is not in whole|Timestamp is not valid)"
    ):
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
