"""What holds for which field: a test says so if none of the tables has a rule for a new one.

OF_REQUESTS has a rule for each field name that means the same in every request. RULES, by `Message.field`, has those of
all other values, and wins over OF_REQUESTS. REQUIRED names the messages and unions that must be set.
A string of free text has a row too, so that it is plain that it was not forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from modelregistry.v1.access_service_pb2 import NewModelOwner, Role
from modelregistry.v1.compatibility_pb2 import CompatibilityMode
from modelregistry.v1.list_order_pb2 import ListOrder
from modelregistry.v1.model_api_pb2 import TabularFormat
from modelregistry.v1.promotion_request_pb2 import PromotionRequestState, ReviewVerdict
from modelregistry.v1.recall_service_pb2 import YankScope
from modelregistry.v1.subscription_pb2 import DeliveryState
from server.core.branches import POLICY_FIELDS
from server.core.event_types import BY_NAME
from server.core.rids import FOLDER, MODEL, MODEL_VERSION, PROMOTION, PROMOTION_REQUEST, SUBSCRIPTION, YANK
from server.validation import model_api
from server.validation.rules import (
    IS_REQUIRED,
    Broken,
    Rule,
    all_of,
    at_most,
    between,
    branch_name,
    claimable_source,
    display_name,
    each,
    entries,
    foreign_branch_name,
    from_1_to,
    given,
    known,
    lasting,
    new_grantee,
    not_negative,
    one_of,
    opaque,
    page_size,
    principal,
    reason,
    required_reason,
    required_text,
    rid,
    sha256,
    text,
    unless_empty,
    uuid,
    version_number,
    webhook_secret,
    webhook_url,
    whole_milliseconds,
)

# By the name of the field alone, in every message that is called a request.
OF_REQUESTS: Final[Mapping[str, Rule]] = {
    "model_rid": rid(MODEL),
    "model_version_rid": rid(MODEL_VERSION),
    "source_model_version_rid": rid(MODEL_VERSION),
    "expected_head_version_rid": rid(MODEL_VERSION, required=False),
    "promotion_rid": rid(PROMOTION),
    "yank_rid": rid(YANK),
    "promotion_request_rid": rid(PROMOTION_REQUEST),
    "subscription_rid": rid(SUBSCRIPTION),
    "parent_folder_rid": rid(FOLDER),
    "folder_rid": rid(FOLDER),
    "resource_rid": rid(MODEL, FOLDER),
    "name": display_name,
    "branch": branch_name,
    "principal": principal,
    "reason": reason,
    "request_id": uuid,
    "page_size": page_size,
    "page_token": opaque,
}

RULES: Final[Mapping[str, Rule]] = {
    # ModelService's requests
    "ListModelsRequest.parent_folder_rid": rid(FOLDER, required=False),
    "CreateModelVersionRequest.model_api": model_api.bounded,
    "CreateModelVersionRequest.conda_requirements": each(text),
    "CreateModelVersionRequest.backing_repositories": each(rid()),
    "CreateModelVersionRequest.source": claimable_source,
    "CreateModelVersionRequest.linked_experiment": rid(required=False),
    "UploadModelFilesRequest.model_rid": unless_empty(rid(MODEL)),
    "UploadModelFilesRequest.chunk": opaque,
    "UploadModelFilesRequest.sha256": unless_empty(sha256),
    "DillModelFiles.serialized_model_function": given,
    "UploadedModelFiles.upload_id": given,
    # PromotionService's requests
    "BatchPromoteVersionsRequest.promotions": from_1_to(100),
    "BatchPromotion.model_rid": rid(MODEL),
    "BatchPromotion.source_model_version_rid": rid(MODEL_VERSION),
    "BatchPromotion.branch": branch_name,
    "BatchPromotion.expected_head_version_rid": rid(MODEL_VERSION, required=False),
    "BatchPromotion.reason": reason,
    "RollbackBranchRequest.to_version_number": version_number,
    "ListPromotionsRequest.model_rid": rid(MODEL, required=False),
    "ListPromotionsRequest.source_model_version_rid": rid(MODEL_VERSION, required=False),
    "ListPromotionsRequest.model_version_rid": rid(MODEL_VERSION, required=False),
    "ListPromotionsRequest.created_by": principal,
    "ListPromotionsRequest.start_time": whole_milliseconds,
    "ListPromotionsRequest.end_time": whole_milliseconds,
    "ListPromotionsRequest.order": known(ListOrder.DESCRIPTOR),
    "SetBranchPolicyRequest.compatibility": known(CompatibilityMode.DESCRIPTOR),
    "SetBranchPolicyRequest.min_time_as_head": lasting,
    "LockBranchRequest.reason": required_reason,
    "LockBranchRequest.expire_time": whole_milliseconds,
    "SetBranchPolicyRequest.clear_fields": each(one_of(*POLICY_FIELDS)),
    "SetBranchPolicyRequest.expected_revision": not_negative,
    "SetFolderBranchPolicyRequest.compatibility": known(CompatibilityMode.DESCRIPTOR),
    "SetFolderBranchPolicyRequest.min_time_as_head": lasting,
    "SetFolderBranchPolicyRequest.clear_fields": each(one_of(*POLICY_FIELDS)),
    "SetFolderBranchPolicyRequest.expected_revision": not_negative,
    "AllowedSources.sources": at_most(100),
    # What a policy is read with and not set with: a list that hides some would take their place.
    "AllowedSources.hidden_count": between(0, 0),
    "AllowedSource.model_rid": rid(MODEL),
    "AllowedSource.branch": branch_name,
    "Principals.principals": all_of(from_1_to(100), each(new_grantee)),
    "ApprovalRule.required": between(1, 10),
    "ApprovalRule.approvers": all_of(from_1_to(100), each(new_grantee)),
    "ApprovalRule.expire_after": lasting,
    # RecallService's requests
    "YankVersionRequest.scope": known(YankScope.DESCRIPTOR, required=True),
    "YankVersionRequest.reason": required_reason,
    "BatchRollbackRequest.rollbacks": from_1_to(100),
    "BranchRollback.model_rid": rid(MODEL),
    "BranchRollback.branch": branch_name,
    "BranchRollback.to_version_number": version_number,
    "BranchRollback.expected_head_version_rid": rid(MODEL_VERSION, required=False),
    "BranchRollback.reason": reason,
    # PromotionRequestService's requests
    "ReviewPromotionRequestRequest.verdict": known(ReviewVerdict.DESCRIPTOR, required=True),
    "ReviewPromotionRequestRequest.comment": reason,
    "ReviewPromotionRequestRequest.expected_policy_revision": not_negative,
    "ListPromotionRequestsRequest.model_rid": rid(MODEL, required=False),
    "ListPromotionRequestsRequest.state": known(PromotionRequestState.DESCRIPTOR),
    "ListPromotionRequestsRequest.requested_by": principal,
    # EventService's requests
    "ListEventsRequest.after_cursor": opaque,
    "ListEventsRequest.model_rid": rid(MODEL, required=False),
    "ListEventsRequest.parent_folder_rid": rid(FOLDER, required=False),
    "ListEventsRequest.types": all_of(at_most(50), each(one_of(*BY_NAME))),
    "ListEventsRequest.actor": principal,
    "ListEventsRequest.start_time": whole_milliseconds,
    "ListEventsRequest.end_time": whole_milliseconds,
    "ListEventsRequest.order": known(ListOrder.DESCRIPTOR),
    "WatchEventsRequest.after_cursor": opaque,
    "WatchEventsRequest.model_rid": rid(MODEL, required=False),
    "WatchEventsRequest.parent_folder_rid": rid(FOLDER, required=False),
    "WatchEventsRequest.types": all_of(at_most(100), each(one_of(*BY_NAME))),
    # SubscriptionService's requests
    "CreateSubscriptionRequest.url": webhook_url,
    "CreateSubscriptionRequest.types": all_of(at_most(100), each(one_of(*BY_NAME))),
    "CreateSubscriptionRequest.secret": webhook_secret,
    "CreateSubscriptionRequest.description": reason,
    "UpdateSubscriptionRequest.url": webhook_url,
    "UpdateSubscriptionRequest.types": all_of(at_most(100), each(one_of(*BY_NAME))),
    "UpdateSubscriptionRequest.description": reason,
    "UpdateSubscriptionRequest.clear_fields": each(one_of("branch", "types", "description")),
    "RotateSubscriptionSecretRequest.secret": webhook_secret,
    "ListDeliveriesRequest.state": known(DeliveryState.DESCRIPTOR),
    "RedeliverEventsRequest.event_ids": all_of(at_most(100), each(uuid)),
    "RedeliverEventsRequest.after_cursor": opaque,
    # AccessService's requests
    "GrantRoleRequest.principal": new_grantee,
    "TransferOwnershipRequest.principal": new_grantee,
    "GrantRoleRequest.role": known(Role.DESCRIPTOR, required=True),
    "SetFolderPolicyRequest.new_model_owner": known(NewModelOwner.DESCRIPTOR, required=True),
    "DisablePrincipalRequest.reason": required_reason,
    # Resources, which arrive through import; it checks itself what must be there
    "Model.rid": unless_empty(rid(MODEL)),
    "Model.name": display_name,
    "Model.parent_folder_rid": unless_empty(rid(FOLDER)),
    "Model.created_time": whole_milliseconds,
    "Model.created_by": unless_empty(principal),
    "ModelVersion.rid": unless_empty(rid(MODEL_VERSION)),
    "ModelVersion.model_api": model_api.bounded,
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
    "CreatePolicyChangeRequestRequest.policy_change": IS_REQUIRED,
    "PolicyChange.type": IS_REQUIRED,
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
