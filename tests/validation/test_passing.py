"""What is in shape passes."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1.access_service_pb2 import (
    ROLE_VIEWER,
    GrantRoleRequest,
    ListGrantChangesRequest,
    ListGrantsRequest,
    RevokeRoleRequest,
)
from modelregistry.v1.model_api_pb2 import DataType, MapType, ModelApi
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
    GetBranchRequest,
    GetModelRequest,
    GetModelVersionRequest,
    ListBranchesRequest,
    ListModelsRequest,
    ListModelVersionsRequest,
    PromoteVersionRequest,
)
from server.core.errors import FieldViolation, InvalidArgument
from server.validation import validate
from tests.validation.samples import (
    ANY,
    EXPERIMENT,
    FOLDER,
    MODEL,
    REPOSITORY,
    UUID,
    VERSION,
    create_version,
    failure,
    with_data_type,
    with_source,
)

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
    ListGrantChangesRequest(resource_rid=MODEL),
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
