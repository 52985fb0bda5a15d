"""What holds for which field: a new field needs one row here, and a test says so.

Rows are keyed by `Message.field`. RULES are for values that are given, REQUIRED for messages and unions that must be.
A string of free text has a row too, so that nobody has to guess whether it was forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from modelregistry.v1.access_service_pb2 import Role
from modelregistry.v1.model_api_pb2 import TabularFormat
from server.rids import FOLDER, MODEL, MODEL_VERSION
from server.validation import model_api
from server.validation.rules import (
    IS_REQUIRED,
    Broken,
    Rule,
    branch_name,
    claimable_source,
    display_name,
    each,
    entries,
    foreign_branch_name,
    given,
    known,
    not_negative,
    opaque,
    page_size,
    principal,
    required_text,
    rid,
    sha256,
    text,
    unless_empty,
    whole_milliseconds,
)

RULES: Final[Mapping[str, Rule]] = {
    # ModelService's requests
    "CreateModelRequest.name": display_name,
    "CreateModelRequest.parent_folder_rid": rid(FOLDER),
    "GetModelRequest.model_rid": rid(MODEL),
    "ListModelsRequest.parent_folder_rid": rid(FOLDER, required=False),
    "ListModelsRequest.page_size": page_size,
    "ListModelsRequest.page_token": opaque,
    "CreateModelVersionRequest.model_rid": rid(MODEL),
    "CreateModelVersionRequest.branch": branch_name,
    "CreateModelVersionRequest.conda_requirements": each(text),
    "CreateModelVersionRequest.backing_repositories": each(rid()),
    "CreateModelVersionRequest.source": claimable_source,
    "CreateModelVersionRequest.linked_experiment": rid(required=False),
    "GetModelVersionRequest.model_rid": rid(MODEL),
    "GetModelVersionRequest.model_version_rid": rid(MODEL_VERSION),
    "GetBranchRequest.model_rid": rid(MODEL),
    "GetBranchRequest.branch": branch_name,
    "ListBranchesRequest.model_rid": rid(MODEL),
    "ListBranchesRequest.page_size": page_size,
    "ListBranchesRequest.page_token": opaque,
    "ListModelVersionsRequest.model_rid": rid(MODEL),
    "ListModelVersionsRequest.branch": branch_name,
    "ListModelVersionsRequest.page_size": page_size,
    "ListModelVersionsRequest.page_token": opaque,
    "PromoteVersionRequest.model_rid": rid(MODEL),
    "PromoteVersionRequest.source_model_version_rid": rid(MODEL_VERSION),
    "PromoteVersionRequest.branch": branch_name,
    "UploadModelFilesRequest.model_rid": unless_empty(rid(MODEL)),
    "UploadModelFilesRequest.chunk": opaque,
    "UploadModelFilesRequest.sha256": unless_empty(sha256),
    "DownloadModelFilesRequest.model_rid": rid(MODEL),
    "DownloadModelFilesRequest.model_version_rid": rid(MODEL_VERSION),
    "DillModelFiles.serialized_model_function": given,
    "UploadedModelFiles.upload_id": given,
    # AccessService's requests
    "GrantRoleRequest.resource_rid": rid(MODEL, FOLDER),
    "GrantRoleRequest.principal": principal,
    "GrantRoleRequest.role": known(Role.DESCRIPTOR, required=True),
    "RevokeRoleRequest.resource_rid": rid(MODEL, FOLDER),
    "RevokeRoleRequest.principal": principal,
    "ListGrantsRequest.resource_rid": rid(MODEL, FOLDER),
    "ListGrantsRequest.page_size": page_size,
    "ListGrantsRequest.page_token": opaque,
    # Resources, which arrive through import; it checks itself what must be there
    "Model.rid": unless_empty(rid(MODEL)),
    "Model.name": display_name,
    "Model.parent_folder_rid": unless_empty(rid(FOLDER)),
    "Model.created_time": whole_milliseconds,
    "Model.created_by": unless_empty(principal),
    "ModelVersion.rid": unless_empty(rid(MODEL_VERSION)),
    "ModelVersion.conda_requirements": each(text),
    "ModelVersion.backing_repositories": each(rid()),
    "ModelVersion.created_time": whole_milliseconds,
    "ModelVersion.linked_experiment": rid(required=False),
    "ModelVersion.model_rid": unless_empty(rid(MODEL)),
    "ModelVersion.branch": branch_name,
    "ModelVersion.version_number": not_negative,
    "ModelVersion.created_by": unless_empty(principal),
    "ModelVersion.root_model_version_rid": unless_empty(rid(MODEL_VERSION)),
    # Sources
    "CodeRepositorySource.repository_rid": rid(),
    "CodeRepositorySource.branch": foreign_branch_name,
    "CodeWorkspaceSource.code_workspace_rid": rid(),
    "CodeWorkspaceSource.branch": foreign_branch_name,
    "ModelStudioSource.model_studio_rid": rid(),
    "PromotedSource.previous_model_rid": rid(MODEL),
    "PromotedSource.previous_model_version_rid": rid(MODEL_VERSION),
    # The Model API
    "ModelApi.inputs": model_api.unique_inputs,
    "ModelApi.outputs": model_api.unique_outputs,
    "TabularType.name": model_api.name,
    "TabularType.columns": model_api.unique_columns,
    "TabularType.format": known(TabularFormat.DESCRIPTOR),
    "ParameterType.name": model_api.name,
    "Column.name": model_api.name,
    "UnsupportedType.unsupported_type": required_text,
    "UnsupportedType.params": entries(text),
}

REQUIRED: Final[Mapping[str, Broken]] = {
    "CreateModelVersionRequest.model_api": IS_REQUIRED,
    "ModelFiles.type": IS_REQUIRED,
    "ModelVersionSource.type": IS_REQUIRED,
    "ModelApiInput.type": model_api.TYPE_MISSING,
    "ModelApiOutput.type": model_api.TYPE_MISSING,
    "ParameterType.data_type": model_api.TYPE_MISSING,
    "Column.data_type": model_api.TYPE_MISSING,
    "DataType.type": model_api.TYPE_MISSING,
    "ArrayType.item_type": model_api.TYPE_MISSING,
    "MapType.key_type": model_api.TYPE_MISSING,
    "MapType.value_type": model_api.TYPE_MISSING,
}
