"""The shape of every field: what passes, what breaks, and which error says so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from modelregistry.v1 import access_service_pb2, model_service_pb2
from modelregistry.v1.access_service_pb2 import (
    ROLE_OWNER,
    ROLE_VIEWER,
    GrantRoleRequest,
    ListGrantsRequest,
    RevokeRoleRequest,
)
from modelregistry.v1.model_api_pb2 import (
    Column,
    DataType,
    MapType,
    ModelApi,
    ModelApiInput,
    ModelApiOutput,
    ParameterType,
    TabularType,
    UnsupportedType,
)
from modelregistry.v1.model_pb2 import (
    CodeRepositorySource,
    CodeWorkspaceSource,
    ExternalSource,
    Model,
    ModelStudioSource,
    ModelVersion,
    ModelVersionSource,
    PromotedSource,
    SdkSource,
)
from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    CreateModelVersionRequest,
    GetBranchRequest,
    GetModelRequest,
    GetModelVersionRequest,
    ListBranchesRequest,
    ListModelsRequest,
    ListModelVersionsRequest,
    PromoteVersionRequest,
)
from server.errors import (
    FieldViolation,
    InvalidArgument,
    InvalidBranchName,
    InvalidDisplayName,
    InvalidModelApi,
    InvalidPageSize,
    RegistryError,
)
from server.validation import validate
from server.validation.table import REQUIRED, RULES
from server.validation.walk import MAX_VIOLATIONS, row_of, unions_of
from tests.strategies import messages, model_apis, model_versions

UUID = "0f3b1d3e-8c3f-4a58-9f6d-1f0c5a2b7e90"
MODEL = f"ri.models.main.model.{UUID}"
VERSION = f"ri.models.main.model-version.{UUID}"
FOLDER = f"ri.compass.main.folder.{UUID}"
REPOSITORY = f"ri.stemma.main.repository.{UUID}"
EXPERIMENT = f"ri.models.main.experiment.{UUID}"

ANY = DataType(any={})
ASTRAL = "\N{ROCKET}"  # one character, four bytes, two UTF-16 units

# C0, DEL and C1, each end of each range.
CONTROLS = ["\x00", "\t", "\n", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]


def failure(message: Message) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        validate(message)
    return caught.value


def broken_paths(message: Message) -> list[str]:
    return [violation.field for violation in failure(message).violations]


def create_version(**fields: Any) -> CreateModelVersionRequest:
    """A valid CreateModelVersionRequest, but for these fields."""
    return CreateModelVersionRequest(**{"model_rid": MODEL, "model_api": ModelApi(), **fields})


def with_source(**fields: Any) -> CreateModelVersionRequest:
    return create_version(source=ModelVersionSource(**fields))


def with_columns(*columns: Column) -> CreateModelVersionRequest:
    table = TabularType(name="table", columns=columns)
    return create_version(model_api=ModelApi(inputs=[ModelApiInput(tabular=table)]))


def with_data_type(data_type: DataType) -> CreateModelVersionRequest:
    return with_columns(Column(name="column", data_type=data_type))


def arrays(levels: int) -> DataType:
    """A data type so many levels deep: a string in arrays."""
    outermost = DataType()
    innermost = outermost
    for _ in range(levels - 1):
        innermost = innermost.array.item_type
    innermost.string.SetInParent()
    return outermost


def rid_of_length(kind: str, length: int) -> str:
    start = f"ri.models.main.{kind}."
    return start + "x" * (length - len(start))


# What passes

VALID = [
    CreateModelRequest(name="m", parent_folder_rid=FOLDER),
    GetModelRequest(model_rid=MODEL),
    ListModelsRequest(),
    ListModelsRequest(parent_folder_rid=FOLDER, page_size=1000, page_token="t"),
    create_version(),
    create_version(
        branch="release/1.0",
        conda_requirements=["numpy==1.24.0", ""],
        backing_repositories=[REPOSITORY, MODEL],
        linked_experiment=EXPERIMENT,
    ),
    GetModelVersionRequest(model_rid=MODEL, model_version_rid=VERSION),
    GetBranchRequest(model_rid=MODEL),
    ListBranchesRequest(model_rid=MODEL),
    ListModelVersionsRequest(model_rid=MODEL, branch="master"),
    PromoteVersionRequest(model_rid=MODEL, source_model_version_rid=VERSION),
    PromoteVersionRequest(model_rid=MODEL, source_model_version_rid=VERSION, branch="prod", preview=True),
    GrantRoleRequest(resource_rid=FOLDER, principal="user:jane", role=ROLE_VIEWER),
    RevokeRoleRequest(resource_rid=MODEL, principal="group:ml"),
    ListGrantsRequest(resource_rid=MODEL),
    Model(name="m"),
    Model(rid=MODEL, name="m", parent_folder_rid=FOLDER, created_by="user:jane", created_time=Timestamp(nanos=10**6)),
    ModelVersion(branch="master"),
    ModelVersion(
        rid=VERSION,
        model_api=ModelApi(),
        created_time=Timestamp(seconds=253402300799, nanos=999_000_000),
        source=ModelVersionSource(
            promoted=PromotedSource(previous_model_rid=MODEL, previous_model_version_rid=VERSION)
        ),
        linked_experiment=EXPERIMENT,
        model_rid=MODEL,
        branch="master",
        version_number=7,
        created_by="group:ml",
        root_model_version_rid=VERSION,
    ),
]


@pytest.mark.parametrize("message", VALID, ids=lambda message: message.DESCRIPTOR.name)
def test_a_message_in_shape_passes(message: Message) -> None:
    validate(message)


@pytest.mark.parametrize(
    "source",
    [
        {"code_repository": CodeRepositorySource(repository_rid=REPOSITORY, branch="b" * 255)},
        {"code_workspace": CodeWorkspaceSource(code_workspace_rid=REPOSITORY, branch=UUID)},
        {"external": ExternalSource()},
        {"imported_containerized_model": {}},
        {"model_studio": ModelStudioSource(model_studio_rid=REPOSITORY)},
        {"sdk": SdkSource()},
    ],
    ids=lambda source: next(iter(source)),
)
def test_a_client_may_name_every_source_but_promoted(source: dict[str, Any]) -> None:
    validate(with_source(**source))


def test_a_client_may_not_claim_that_a_version_was_promoted() -> None:
    error = failure(with_source(promoted=PromotedSource()))

    assert isinstance(error, InvalidArgument)
    assert error.violations == (FieldViolation("source.promoted", "is set by PromoteVersion alone"),)


@pytest.mark.parametrize("kind", [field.name for field in DataType.DESCRIPTOR.fields])
def test_every_data_type_passes(kind: str) -> None:
    data_type = DataType()
    getattr(data_type, kind).SetInParent()
    if kind == "array":
        data_type.array.item_type.CopyFrom(ANY)
    if kind == "map":
        data_type.map.CopyFrom(MapType(key_type=ANY, value_type=ANY))
    if kind == "unsupported":
        data_type.unsupported.unsupported_type = "geohash"

    validate(with_data_type(data_type))


# Names

BRANCH_REQUESTS = [
    lambda branch: create_version(branch=branch),
    lambda branch: GetBranchRequest(model_rid=MODEL, branch=branch),
    lambda branch: ListModelVersionsRequest(model_rid=MODEL, branch=branch),
    lambda branch: PromoteVersionRequest(model_rid=MODEL, source_model_version_rid=VERSION, branch=branch),
    lambda branch: ModelVersion(branch=branch),
]


@pytest.mark.parametrize("request_with", BRANCH_REQUESTS)
@pytest.mark.parametrize(
    "branch", ["", "b" * 256, ASTRAL * 256, MODEL, UUID, UUID.upper(), "ri.a..b.c", "a\nb", "\x9f"]
)
def test_a_bad_branch_name_is_named(request_with: Any, branch: str) -> None:
    error = failure(request_with(branch))

    assert isinstance(error, InvalidBranchName)
    assert error.branch_name == branch
    assert [violation.field for violation in error.violations] == ["branch"]


@pytest.mark.parametrize("request_with", BRANCH_REQUESTS)
@pytest.mark.parametrize(
    "branch",
    [
        "b",
        "b" * 255,
        ASTRAL * 255,
        ".",
        "feature/x y",
        "ri.models",
        f"ri.models.main.model.{UUID}/x",
        UUID[:-1],
        f"x{UUID}",
        f"{UUID}0",
        UUID.replace("-", ""),
        "٠" * 8 + UUID[8:],
    ],
)
def test_any_other_branch_name_passes(request_with: Any, branch: str) -> None:
    validate(request_with(branch))


def named(name: str) -> list[Message]:
    return [CreateModelRequest(name=name, parent_folder_rid=FOLDER), Model(name=name)]


@pytest.mark.parametrize("name", ["n", "n" * 700, ASTRAL * 700, "...", ".hidden", "a\\b", MODEL, " "])
def test_a_good_display_name_passes(name: str) -> None:
    for message in named(name):
        validate(message)


@pytest.mark.parametrize("name", ["", "n" * 701, ASTRAL * 701, ".", "..", "a/b", "/", "a\x00", "\x85", "a/\x00"])
def test_a_bad_display_name_is_named(name: str) -> None:
    for message in named(name):
        error = failure(message)

        assert isinstance(error, InvalidDisplayName)
        assert error.display_name == name
        assert [violation.field for violation in error.violations] == ["name"]


# Page sizes

PAGED = [
    lambda **page: ListModelsRequest(**page),
    lambda **page: ListBranchesRequest(model_rid=MODEL, **page),
    lambda **page: ListModelVersionsRequest(model_rid=MODEL, **page),
    lambda **page: ListGrantsRequest(resource_rid=MODEL, **page),
]


@pytest.mark.parametrize("request_with", PAGED)
@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_page_size_up_to_1000_passes(request_with: Any, size: int) -> None:
    validate(request_with(page_size=size))


@pytest.mark.parametrize("request_with", PAGED)
@pytest.mark.parametrize("size", [-1, 1001, -(2**31), 2**31 - 1])
def test_any_other_page_size_is_named(request_with: Any, size: int) -> None:
    error = failure(request_with(page_size=size))

    assert isinstance(error, InvalidPageSize)
    assert error.page_size == size
    assert error.violations == (FieldViolation("page_size", f"must be 0 to 1000, not {size}"),)


@pytest.mark.parametrize("request_with", PAGED)
@pytest.mark.parametrize("token", ["", "\x00", "nonsense\n"])
def test_a_page_token_is_left_to_its_reader(request_with: Any, token: str) -> None:
    validate(request_with(page_token=token))


# RIDs

MODEL_OR_FOLDER = ("model", "folder")
SENTENCES = {
    ("model",): "must be the RID of a model, like ri.models.main.model.<uuid>,",
    ("model-version",): "must be the RID of a model-version, like ri.models.main.model-version.<uuid>,",
    ("folder",): "must be the RID of a folder, like ri.<service>.<instance>.folder.<locator>,",
    MODEL_OR_FOLDER: "must be the RID of a model, like ri.models.main.model.<uuid>,"
    " or the RID of a folder, like ri.<service>.<instance>.folder.<locator>,",
    (): "must be a RID, like ri.<service>.<instance>.<type>.<locator>,",
}
PROMOTED = ModelVersionSource(promoted=PromotedSource(previous_model_rid=MODEL, previous_model_version_rid=VERSION))

# Each RID field: a valid message, the field's path in it, the types that the RID may have (none named: any), and what
# an empty one is: missing, wrong, or fine.
RID_FIELDS: list[tuple[Message, str, tuple[str, ...], str]] = [
    (CreateModelRequest(name="n", parent_folder_rid=FOLDER), "parent_folder_rid", ("folder",), "missing"),
    (GetModelRequest(model_rid=MODEL), "model_rid", ("model",), "missing"),
    (ListModelsRequest(), "parent_folder_rid", ("folder",), "wrong"),
    (create_version(), "model_rid", ("model",), "missing"),
    (create_version(backing_repositories=[MODEL, MODEL]), "backing_repositories[1]", (), "missing"),
    (create_version(), "linked_experiment", (), "wrong"),
    (GetModelVersionRequest(model_rid=MODEL, model_version_rid=VERSION), "model_rid", ("model",), "missing"),
    (GetModelVersionRequest(model_rid=MODEL), "model_version_rid", ("model-version",), "missing"),
    (GetBranchRequest(), "model_rid", ("model",), "missing"),
    (ListBranchesRequest(), "model_rid", ("model",), "missing"),
    (ListModelVersionsRequest(), "model_rid", ("model",), "missing"),
    (PromoteVersionRequest(source_model_version_rid=VERSION), "model_rid", ("model",), "missing"),
    (PromoteVersionRequest(model_rid=MODEL), "source_model_version_rid", ("model-version",), "missing"),
    (GrantRoleRequest(principal="user:u", role=ROLE_OWNER), "resource_rid", MODEL_OR_FOLDER, "missing"),
    (RevokeRoleRequest(principal="user:u"), "resource_rid", MODEL_OR_FOLDER, "missing"),
    (ListGrantsRequest(), "resource_rid", MODEL_OR_FOLDER, "missing"),
    (with_source(code_repository={"branch": "b"}), "source.code_repository.repository_rid", (), "missing"),
    (with_source(code_workspace={"branch": "b"}), "source.code_workspace.code_workspace_rid", (), "missing"),
    (with_source(model_studio={}), "source.model_studio.model_studio_rid", (), "missing"),
    (ModelVersion(branch="b", source=PROMOTED), "source.promoted.previous_model_rid", ("model",), "missing"),
    (
        ModelVersion(branch="b", source=PROMOTED),
        "source.promoted.previous_model_version_rid",
        ("model-version",),
        "missing",
    ),
    (Model(name="n"), "rid", ("model",), "fine"),
    (Model(name="n"), "parent_folder_rid", ("folder",), "fine"),
    (ModelVersion(branch="b"), "rid", ("model-version",), "fine"),
    (ModelVersion(branch="b"), "model_rid", ("model",), "fine"),
    (ModelVersion(branch="b"), "root_model_version_rid", ("model-version",), "fine"),
    (ModelVersion(branch="b", backing_repositories=[MODEL]), "backing_repositories[0]", (), "missing"),
    (ModelVersion(branch="b"), "linked_experiment", (), "wrong"),
]
rid_fields = pytest.mark.parametrize(
    ("message", "path", "kinds", "empty"), RID_FIELDS, ids=[f"{row[0].DESCRIPTOR.name}.{row[1]}" for row in RID_FIELDS]
)


def with_rid(message: Message, path: str, rid: str) -> Message:
    """A copy of the message with this RID at this path."""
    changed = type(message)()
    changed.CopyFrom(message)
    *parents, name = path.split(".")
    holder: Any = changed
    for parent in parents:
        holder = getattr(holder, parent)
    if name.endswith("]"):
        list_name, index = name.removesuffix("]").split("[")
        getattr(holder, list_name)[int(index)] = rid
    else:
        setattr(holder, name, rid)
    return changed


def assert_only(error: RegistryError, path: str, sentence: str) -> None:
    """The error is an InvalidArgument for nothing but this."""
    assert isinstance(error, InvalidArgument)
    assert error.violations == (FieldViolation(path, sentence),)


@rid_fields
def test_a_rid_of_the_right_type_passes_up_to_255_bytes(
    message: Message, path: str, kinds: tuple[str, ...], empty: str
) -> None:
    for kind in kinds or ("anything",):
        for rid in (f"ri.a..{kind}.b", f"ri.models.main.{kind}.{UUID}", rid_of_length(kind, 255)):
            validate(with_rid(message, path, rid))


@rid_fields
def test_a_malformed_rid_is_an_invalid_argument(
    message: Message, path: str, kinds: tuple[str, ...], empty: str
) -> None:
    right = f"ri.models.main.{(*kinds, 'anything')[0]}.{UUID}"
    for rid in ("foo", f"{right}\n", right.upper(), f"{right}é", f" {right}", "\x00"):
        assert_only(failure(with_rid(message, path, rid)), path, f"{SENTENCES[kinds]} not {rid!r}")


@rid_fields
def test_a_rid_of_256_bytes_is_an_invalid_argument(
    message: Message, path: str, kinds: tuple[str, ...], empty: str
) -> None:
    long = rid_of_length((*kinds, "anything")[0], 256)

    assert_only(failure(with_rid(message, path, long)), path, f"{SENTENCES[kinds]} of at most 255 bytes, not 256")


@rid_fields
def test_a_rid_of_the_wrong_type_is_an_invalid_argument(
    message: Message, path: str, kinds: tuple[str, ...], empty: str
) -> None:
    other = with_rid(message, path, EXPERIMENT)
    if kinds:
        assert_only(failure(other), path, f"{SENTENCES[kinds]} not {EXPERIMENT!r}")
    else:
        validate(other)


@rid_fields
def test_an_empty_rid_is_an_invalid_argument_where_one_is_expected(
    message: Message, path: str, kinds: tuple[str, ...], empty: str
) -> None:
    without = with_rid(message, path, "")
    if empty == "fine":
        validate(without)
    else:
        assert_only(failure(without), path, "is required" if empty == "missing" else f"{SENTENCES[kinds]} not ''")


def test_every_rid_field_is_in_the_list_above() -> None:
    listed = {path.rpartition(".")[2].partition("[")[0] for _, path, _, _ in RID_FIELDS}
    named_like_one = {row.partition(".")[2] for row in RULES if row.endswith("rid")}

    assert listed == named_like_one | {"backing_repositories", "linked_experiment"}


# Principals, roles, numbers and times


def with_principal(principal: str) -> list[tuple[str, Message]]:
    return [
        ("principal", GrantRoleRequest(resource_rid=MODEL, principal=principal, role=ROLE_VIEWER)),
        ("principal", RevokeRoleRequest(resource_rid=MODEL, principal=principal)),
        ("created_by", Model(name="n", created_by=principal)),
        ("created_by", ModelVersion(branch="b", created_by=principal)),
    ]


@pytest.mark.parametrize("principal", ["user:j", "group:a:b", "user: ", "user:" + "x" * 250, "user:xx" + ASTRAL * 62])
def test_a_user_or_a_group_passes_up_to_255_bytes(principal: str) -> None:
    for _, message in with_principal(principal):
        validate(message)


@pytest.mark.parametrize(
    "principal",
    [
        "jane",
        "user:",
        "group:",
        "User:j",
        " user:j",
        "role:x",
        "user:a\x00",
        "user:\n",
        "user:" + "x" * 251,
        "user:" + ASTRAL * 63,
    ],
)
def test_any_other_principal_is_an_invalid_argument(principal: str) -> None:
    for path, message in with_principal(principal):
        assert isinstance(failure(message), InvalidArgument)
        assert broken_paths(message) == [path]


def test_a_principal_is_required() -> None:
    error = failure(RevokeRoleRequest(resource_rid=MODEL))

    assert error.violations == (FieldViolation("principal", "is required"),)


@pytest.mark.parametrize(("role", "start"), [(0, "is required"), (5, "must be one of"), (-1, "must be one of")])
def test_a_role_must_be_given_and_known(role: Any, start: str) -> None:
    error = failure(GrantRoleRequest(resource_rid=MODEL, principal="user:u", role=role))

    assert isinstance(error, InvalidArgument)
    (violation,) = error.violations
    assert violation.field == "role"
    assert violation.description.startswith(start)
    assert "ROLE_VIEWER, ROLE_PROMOTER, ROLE_EDITOR, ROLE_OWNER" in violation.description


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_known_tabular_format_passes(number: Any) -> None:
    validate(ModelApi(inputs=[ModelApiInput(tabular=TabularType(name="t", format=number))]))


@pytest.mark.parametrize("number", [3, -1, 2**31 - 1])
def test_an_unknown_tabular_format_is_an_invalid_argument(number: Any) -> None:
    error = failure(ModelApi(outputs=[ModelApiOutput(tabular=TabularType(name="t", format=number))]))

    assert isinstance(error, InvalidArgument)
    sentence = f"must be one of TABULAR_FORMAT_PANDAS, TABULAR_FORMAT_SPARK, not {number}"
    assert error.violations == (FieldViolation("outputs[0].tabular.format", sentence),)


def test_a_version_number_is_not_negative() -> None:
    assert broken_paths(ModelVersion(branch="b", version_number=-1)) == ["version_number"]


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(0, 1), (0, 999_999), (0, -(10**6)), (0, 10**9), (253402300800, 0), (-62135596801, 0), (2**63 - 1, 0)],
)
def test_a_time_is_in_whole_milliseconds_of_the_years_1_to_9999(seconds: int, nanos: int) -> None:
    created_time = Timestamp(seconds=seconds, nanos=nanos)

    assert broken_paths(Model(name="n", created_time=created_time)) == ["created_time"]
    assert broken_paths(ModelVersion(branch="b", created_time=created_time)) == ["created_time"]


# Free text and sources


@pytest.mark.parametrize("control", CONTROLS)
def test_no_text_has_control_characters(control: str) -> None:
    unsupported = UnsupportedType(unsupported_type=f"a{control}", params={"value": control})
    request = create_version(
        conda_requirements=["fine", f"not{control}"],
        source=ModelVersionSource(code_repository=CodeRepositorySource(repository_rid=REPOSITORY, branch=control)),
        model_api=ModelApi(
            inputs=[
                ModelApiInput(tabular=TabularType(name=f"t{control}", columns=[Column(name=control, data_type=ANY)])),
                ModelApiInput(unsupported=unsupported),
            ],
            outputs=[
                ModelApiOutput(parameter=ParameterType(name=control, data_type=DataType(unsupported=unsupported)))
            ],
        ),
    )
    error = failure(request)

    assert isinstance(error, InvalidArgument)
    assert [violation.field for violation in error.violations] == [
        "model_api.inputs[0].tabular.name",
        "model_api.inputs[0].tabular.columns[0].name",
        "model_api.inputs[1].unsupported.unsupported_type",
        'model_api.inputs[1].unsupported.params["value"]',
        "model_api.outputs[0].parameter.name",
        "model_api.outputs[0].parameter.data_type.unsupported.unsupported_type",
        'model_api.outputs[0].parameter.data_type.unsupported.params["value"]',
        "conda_requirements[1]",
        "source.code_repository.branch",
    ]
    for violation in error.violations:
        assert violation.description.startswith(f"must not contain control characters, but has U+{ord(control):04X} in")


@pytest.mark.parametrize("character", [" ", "~", "\xa0", "é", "\u2028", "\ufeff", "\ufffe", ASTRAL, "\U0010ffff"])
def test_text_may_have_any_other_character(character: str) -> None:
    column = Column(name=character, data_type=DataType(unsupported=UnsupportedType(unsupported_type=character)))
    column.data_type.unsupported.params[character] = character

    validate(with_columns(column))


def test_a_path_never_carries_the_control_characters_of_a_map_key() -> None:
    error = failure(UnsupportedType(unsupported_type="u", params={'a"\n\x85é': "fine"}))

    (violation,) = error.violations
    assert violation.field == r'params["a\"\n\u0085é"]'
    assert (
        violation.description
        == r"""has a key that must not contain control characters, but has U+000A in 'a"\n\x85é'"""
    )


@pytest.mark.parametrize("branch", ["", "b" * 256, ASTRAL * 256])
def test_a_source_names_a_branch_of_at_most_255_characters(branch: str) -> None:
    for source, rid in (("code_repository", "repository_rid"), ("code_workspace", "code_workspace_rid")):
        error = failure(with_source(**{source: {rid: REPOSITORY, "branch": branch}}))

        assert isinstance(error, InvalidArgument)
        assert [violation.field for violation in error.violations] == [f"source.{source}.branch"]


def test_a_source_that_is_given_says_its_kind() -> None:
    error = failure(create_version(source=ModelVersionSource()))

    assert isinstance(error, InvalidArgument)
    assert error.violations == (FieldViolation("source.type", "is required"),)


# The Model API


def test_a_model_api_is_required() -> None:
    error = failure(CreateModelVersionRequest(model_rid=MODEL))

    assert isinstance(error, InvalidArgument)
    assert error.violations == (FieldViolation("model_api", "is required"),)


@pytest.mark.parametrize(
    ("model_api", "path"),
    [
        (ModelApi(inputs=[ModelApiInput()]), "inputs[0].type"),
        (
            ModelApi(outputs=[ModelApiOutput(unsupported={"unsupported_type": "u"}), ModelApiOutput()]),
            "outputs[1].type",
        ),
        (ModelApi(inputs=[ModelApiInput(parameter={"name": "p"})]), "inputs[0].parameter.data_type"),
        (
            ModelApi(inputs=[ModelApiInput(parameter={"name": "p", "data_type": {}})]),
            "inputs[0].parameter.data_type.type",
        ),
    ],
)
def test_every_input_and_output_has_a_type(model_api: ModelApi, path: str) -> None:
    error = failure(create_version(model_api=model_api))

    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "TYPE_MISSING"
    assert error.message == f"model_api.{path} is required."
    assert error.violations == (FieldViolation(f"model_api.{path}", "is required"),)


@pytest.mark.parametrize(
    ("column", "path"),
    [
        (Column(name="c"), "data_type"),
        (Column(name="c", data_type=DataType()), "data_type.type"),
        (Column(name="c", data_type=DataType(array={})), "data_type.array.item_type"),
        (Column(name="c", data_type=DataType(array={"item_type": {}})), "data_type.array.item_type.type"),
        (Column(name="c", data_type=DataType(map={"value_type": ANY})), "data_type.map.key_type"),
        (Column(name="c", data_type=DataType(map={"key_type": ANY})), "data_type.map.value_type"),
        (
            Column(name="c", data_type=DataType(map={"key_type": ANY, "value_type": {}})),
            "data_type.map.value_type.type",
        ),
    ],
)
def test_every_column_has_a_type_to_its_depth(column: Column, path: str) -> None:
    error = failure(with_columns(column))

    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "TYPE_MISSING"
    assert [violation.field for violation in error.violations] == [f"model_api.inputs[0].tabular.columns[0].{path}"]


@pytest.mark.parametrize(
    ("model_api", "path"),
    [
        (ModelApi(inputs=[ModelApiInput(tabular={})]), "inputs[0].tabular.name"),
        (ModelApi(outputs=[ModelApiOutput(parameter={"data_type": ANY})]), "outputs[0].parameter.name"),
        (
            ModelApi(inputs=[ModelApiInput(tabular={"name": "t", "columns": [{"data_type": ANY}]})]),
            "inputs[0].tabular.columns[0].name",
        ),
    ],
)
def test_inputs_outputs_and_columns_have_names(model_api: ModelApi, path: str) -> None:
    error = failure(model_api)

    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "EMPTY_NAME"
    assert error.message == f"{path} must not be empty."


def test_an_unsupported_type_says_which() -> None:
    for api in (ModelApi(inputs=[ModelApiInput(unsupported={})]), ModelApi(outputs=[ModelApiOutput(unsupported={})])):
        error = failure(api)

        assert isinstance(error, InvalidArgument)
        assert error.violations[0].field.endswith("puts[0].unsupported.unsupported_type")
        assert error.violations[0].description == "is required"


def tabular(name: str) -> Any:
    return {"tabular": {"name": name}}


def parameter(name: str) -> Any:
    return {"parameter": {"name": name, "data_type": ANY}}


@pytest.mark.parametrize(
    ("model_api", "path", "first"),
    [
        (ModelApi(inputs=[tabular("x"), tabular("y"), tabular("x")]), "inputs[2].tabular.name", 0),
        (ModelApi(inputs=[tabular("x"), parameter("x")]), "inputs[1].parameter.name", 0),
        (ModelApi(outputs=[tabular("y"), parameter("x"), tabular("x")]), "outputs[2].tabular.name", 1),
        (
            ModelApi(inputs=[{"tabular": {"name": "t", "columns": [{"name": "x", "data_type": ANY}] * 2}}]),
            "inputs[0].tabular.columns[1].name",
            0,
        ),
    ],
)
def test_a_name_is_given_once_in_a_list(model_api: ModelApi, path: str, first: int) -> None:
    error = failure(model_api)

    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "DUPLICATE_NAME"
    assert error.violations == (
        FieldViolation(path, f"must be unique in its list, but 'x' is also the name of item {first}"),
    )


@pytest.mark.parametrize(
    "model_api",
    [
        ModelApi(inputs=[tabular("x")], outputs=[tabular("x")]),
        ModelApi(
            inputs=[tabular("x"), tabular("X"), tabular("x "), tabular("é"), tabular("e\N{COMBINING ACUTE ACCENT}")]
        ),
        ModelApi(inputs=[{"unsupported": {"unsupported_type": "u"}}] * 2),
        ModelApi(inputs=[{"tabular": {"name": name, "columns": [{"name": "x", "data_type": ANY}]}} for name in "xy"]),
    ],
)
def test_the_same_name_elsewhere_is_no_duplicate(model_api: ModelApi) -> None:
    validate(model_api)


def test_empty_names_are_no_duplicates_of_each_other() -> None:
    error = failure(ModelApi(inputs=[tabular(""), tabular("")]))

    assert [violation.description for violation in error.violations] == ["must not be empty"] * 2


def test_a_data_type_may_be_32_levels_deep() -> None:
    validate(with_data_type(arrays(32)))


@pytest.mark.parametrize("levels", [33, 40, 2000])
def test_a_data_type_deeper_than_32_levels_is_refused_without_following_it(levels: int) -> None:
    request = CreateModelVersionRequest()
    innermost = request.model_api.inputs.add().parameter.data_type
    for _ in range(levels - 1):
        innermost = innermost.array.item_type
    innermost.any.SetInParent()
    request.model_rid = MODEL
    request.model_api.inputs[0].parameter.name = "p"
    error = failure(request)

    assert isinstance(error, InvalidModelApi)
    assert error.error_type == "NESTING_TOO_DEEP"
    assert error.message == "model_api.inputs[0].parameter.data_type must be nested at most 32 levels deep."
    assert [violation.field for violation in error.violations] == ["model_api.inputs[0].parameter.data_type"]


def test_a_deep_map_is_one_violation_however_many_parts_are_too_deep() -> None:
    deep = arrays(32)
    request = with_data_type(DataType(map=MapType(key_type=deep, value_type=deep)))

    assert isinstance(failure(request), InvalidModelApi)


def test_each_column_has_its_own_depth() -> None:
    columns = [Column(name=str(index), data_type=arrays(depth)) for index, depth in enumerate([33, 32, 1, 40])]

    paths = [f"model_api.inputs[0].tabular.columns[{index}].data_type" for index in (0, 3)]
    assert broken_paths(with_columns(*columns)) == paths


# Which error


def test_two_violations_are_an_invalid_argument_with_both() -> None:
    error = failure(PromoteVersionRequest(model_rid="foo", source_model_version_rid=VERSION, branch=""))

    assert isinstance(error, InvalidArgument)
    assert error.violations == (
        FieldViolation("model_rid", f"{SENTENCES[('model',)]} not 'foo'"),
        FieldViolation("branch", "must be 1 to 255 characters long, not 0"),
    )


def test_two_violations_of_the_same_name_are_an_invalid_argument_too() -> None:
    error = failure(with_columns(Column(name="a"), Column(name="b")))

    assert isinstance(error, InvalidArgument)
    assert len(error.violations) == 2


def test_an_empty_request_names_all_that_is_required() -> None:
    assert broken_paths(CreateModelVersionRequest()) == ["model_rid", "model_api"]
    assert broken_paths(GrantRoleRequest()) == ["resource_rid", "principal", "role"]


def test_25_violations_are_all_told() -> None:
    request = create_version(backing_repositories=["foo"] * 25)

    assert broken_paths(request) == [f"backing_repositories[{index}]" for index in range(25)]


def test_the_violations_of_a_thoroughly_broken_message_are_bounded() -> None:
    request = create_version(backing_repositories=["foo"] * (MAX_VIOLATIONS + 5))

    assert len(failure(request).violations) == MAX_VIOLATIONS


def test_a_sentence_quotes_a_long_value_only_in_part() -> None:
    request = create_version(conda_requirements=["\x00" * 100_000], backing_repositories=["x" * 100_000])

    assert all(len(violation.description) < 250 for violation in failure(request).violations)


def test_a_foreign_message_has_its_text_checked() -> None:
    from grpc_health.v1.health_pb2 import HealthCheckRequest

    validate(HealthCheckRequest(service="modelregistry.v1.ModelService"))
    assert broken_paths(HealthCheckRequest(service="\x00")) == ["service"]


def test_two_thousand_columns_take_no_time_to_speak_of() -> None:
    request = with_columns(*(Column(name=f"column_{index}", data_type=ANY) for index in range(2000)))
    started = time.perf_counter()
    validate(request)

    # About 4 ms; the bound is for busy machines.
    assert time.perf_counter() - started < 0.2


# Whatever arrives


def outcome(message: Message) -> RegistryError | None:
    try:
        validate(message)
    except RegistryError as error:
        return error
    return None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_message_passes_or_fails_with_its_violations(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(arriving_messages())))
    error = outcome(data.draw(messages(GetMessageClass(kind))))

    if isinstance(error, InvalidArgument):
        assert error.violations
    elif error is not None:
        assert isinstance(error, (InvalidBranchName, InvalidDisplayName, InvalidModelApi, InvalidPageSize))
        assert len(error.violations) == 1


@settings(max_examples=50, deadline=None)
@given(model_apis())
def test_every_valid_model_api_passes(model_api: ModelApi) -> None:
    validate(model_api)
    validate(create_version(model_api=model_api))


@settings(max_examples=50, deadline=None)
@given(model_versions())
def test_every_version_that_the_service_returns_passes(version: ModelVersion) -> None:
    validate(version)


# The table is complete


def arriving_messages() -> Iterator[Descriptor]:
    """What a client or an import file can send."""
    for file in (model_service_pb2.DESCRIPTOR, access_service_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            yield from (method.input_type for method in service.methods)
    yield from (Model.DESCRIPTOR, ModelVersion.DESCRIPTOR)


def reachable() -> list[Descriptor]:
    """The messages that arrive and all that they are made of, but for google's own."""
    found: dict[str, Descriptor] = {}

    def visit(descriptor: Descriptor) -> None:
        if descriptor.full_name in found or descriptor.file.package != "modelregistry.v1":
            return
        found[descriptor.full_name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None and not is_map(field):
                visit(field.message_type)

    for descriptor in arriving_messages():
        visit(descriptor)
    return list(found.values())


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def test_every_field_that_can_be_wrong_by_itself_has_a_row() -> None:
    """Strings, numbers, enums and maps; a bool is right either way, and a message is what it is made of."""
    fields = [field for descriptor in reachable() for field in descriptor.fields]
    judged = [field for field in fields if field.type != field.TYPE_BOOL and (not field.message_type or is_map(field))]

    assert len(judged) > 40
    assert [row_of(field) for field in judged if row_of(field) not in RULES] == []


def test_every_union_has_a_row() -> None:
    unions: list[OneofDescriptor] = [union for descriptor in reachable() for union in unions_of(descriptor)]

    assert {row_of(union) for union in unions} == {row for row in REQUIRED if row.endswith(".type")}


def test_every_time_and_every_data_type_has_a_row() -> None:
    fields = [field for descriptor in reachable() for field in descriptor.fields if field.message_type is not None]

    times = [field for field in fields if field.message_type is Timestamp.DESCRIPTOR]
    assert times
    assert all(row_of(field) in RULES for field in times)
    data_types = [field for field in fields if field.message_type is DataType.DESCRIPTOR]
    assert data_types
    assert all(row_of(field) in REQUIRED for field in data_types)


def test_every_enum_field_refuses_a_number_that_the_enum_lacks() -> None:
    fields = [field for descriptor in reachable() for field in descriptor.fields if field.enum_type is not None]

    assert fields
    for field in fields:
        enum: EnumDescriptor = field.enum_type
        assert list(RULES[row_of(field)](max(enum.values_by_number) + 1)), field.full_name


def test_every_row_is_for_something_that_can_arrive() -> None:
    parts = [part for descriptor in reachable() for part in [*descriptor.fields, *unions_of(descriptor)]]

    assert {*RULES, *REQUIRED} <= {row_of(part) for part in parts}
