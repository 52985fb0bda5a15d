"""Which error is raised, whatever arrives."""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from modelregistry.v1.access_service_pb2 import GrantRoleRequest
from modelregistry.v1.model_api_pb2 import Column, ModelApi
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import CreateModelVersionRequest, PromoteVersionRequest
from server.core.errors import (
    FieldViolation,
    InvalidArgument,
    InvalidBranchName,
    InvalidDisplayName,
    InvalidModelApi,
    InvalidPageSize,
    RegistryError,
)
from server.validation import validate
from server.validation.walk import MAX_VIOLATIONS
from tests.strategies import messages, model_apis, model_versions
from tests.validation.samples import VERSION, broken_paths, create_version, failure, with_columns
from tests.validation.test_rids import SENTENCES
from tests.validation.test_table import arriving_messages


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


def outcome(message: Message) -> RegistryError | None:
    try:
        validate(message)
    except RegistryError as error:
        return error
    return None


@settings(max_examples=200)
@given(st.data())
def test_any_message_passes_or_fails_with_its_violations(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(arriving_messages())))
    error = outcome(data.draw(messages(GetMessageClass(kind))))

    if isinstance(error, InvalidArgument):
        assert error.violations
    elif error is not None:
        assert isinstance(error, (InvalidBranchName, InvalidDisplayName, InvalidModelApi, InvalidPageSize))
        assert len(error.violations) == 1


@settings(max_examples=50)
@given(model_apis())
def test_every_valid_model_api_passes(model_api: ModelApi) -> None:
    validate(model_api)
    validate(create_version(model_api=model_api))


@settings(max_examples=50)
@given(model_versions())
def test_every_version_that_the_service_returns_passes(version: ModelVersion) -> None:
    validate(version)
