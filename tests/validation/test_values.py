"""Principals, roles, numbers, times, free text and sources."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1.access_service_pb2 import (
    ROLE_VIEWER,
    GrantRoleRequest,
    RevokeRoleRequest,
    TransferOwnershipRequest,
)
from modelregistry.v1.model_api_pb2 import (
    Column,
    DataType,
    ModelApi,
    ModelApiInput,
    ModelApiOutput,
    ParameterType,
    TabularType,
    UnsupportedType,
)
from modelregistry.v1.model_pb2 import CodeRepositorySource, Model, ModelVersion, ModelVersionSource
from server.core.errors import FieldViolation, InvalidArgument
from server.validation import validate
from tests.validation.samples import (
    ASTRAL,
    CONTROLS,
    MODEL,
    REPOSITORY,
    broken_paths,
    create_version,
    failure,
    with_columns,
    with_source,
)


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


# Without width, for a direction, blanks of other widths, ends of lines, of no meaning yet, of private use, ignored.
UNSEEN = "\u200b\u200d\u2060\ufeff\u00ad\u202e\u2066\u061c\u200f\u00a0\u3000\u2009\u2028\u2029\u0378\ue000"
UNSEEN += "\u034f\u115f\u3164\uffa0\u17b4\u180b\ufe0f\u2800\U000e0041\U000e0100\U0010ffff"


@pytest.mark.parametrize("sign", UNSEEN, ids=ascii)
def test_nothing_is_given_to_a_name_with_what_is_not_seen_and_what_it_has_can_be_taken_away(sign: str) -> None:
    for principal in (f"user:j{sign}", f"group:{sign}", f"user:a{sign}b"):
        (_, grant), *others = with_principal(principal)
        for giving in (grant, TransferOwnershipRequest(resource_rid=MODEL, principal=principal)):
            error = failure(giving)
            assert isinstance(error, InvalidArgument)
            [violation] = error.violations
            assert violation.field == "principal"
            assert f"U+{ord(sign):04X}" in violation.description
            assert sign not in violation.description
        for _, message in others:
            validate(message)


@pytest.mark.parametrize(
    "name", ["j d", "é", "e\u0301", "日本", "ירושלים", "العربية", "O’Neil", "👩", "a-b_c.d@e:f/g|h"]
)
def test_names_of_any_script_are_given_roles(name: str) -> None:
    validate(GrantRoleRequest(resource_rid=MODEL, principal=f"user:{name}", role=ROLE_VIEWER))


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


@pytest.mark.parametrize("control", CONTROLS)
def test_no_text_but_that_of_data_and_people_has_control_characters(control: str) -> None:
    unsupported = UnsupportedType(unsupported_type=f"a{control}", params={"value": control})
    request = create_version(
        conda_requirements=["fine", f"not{control}"],
        source=ModelVersionSource(code_repository=CodeRepositorySource(repository_rid=REPOSITORY, branch=control)),
        model_api=ModelApi(
            inputs=[ModelApiInput(unsupported=unsupported)],
            outputs=[ModelApiOutput(parameter=ParameterType(name="p", data_type=DataType(unsupported=unsupported)))],
        ),
    )
    error = failure(request)

    assert isinstance(error, InvalidArgument)
    assert [violation.field for violation in error.violations] == [
        "model_api.inputs[0].unsupported.unsupported_type",
        'model_api.inputs[0].unsupported.params["value"]',
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
