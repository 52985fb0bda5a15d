"""RIDs, in each field that holds one."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from modelregistry.v1.access_service_pb2 import (
    NEW_MODEL_OWNER_FOLDER,
    ROLE_OWNER,
    GetFolderPolicyRequest,
    GrantRoleRequest,
    ListGrantChangesRequest,
    ListGrantsRequest,
    RevokeRoleRequest,
    SetFolderPolicyRequest,
    TransferOwnershipRequest,
)
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF
from modelregistry.v1.model_pb2 import Model, ModelVersion, ModelVersionSource, PromotedSource
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
from modelregistry.v1.promotion_request_pb2 import REVIEW_VERDICT_APPROVE
from modelregistry.v1.promotion_request_service_pb2 import (
    ListPromotionRequestsRequest,
    ReviewPromotionRequestRequest,
)
from modelregistry.v1.promotion_service_pb2 import (
    GetBranchPolicyRequest,
    GetLineageRequest,
    GetPromotionRequest,
    ListPromotionsRequest,
    RollbackBranchRequest,
    SetBranchPolicyRequest,
)
from modelregistry.v1.recall_service_pb2 import BatchRollbackRequest, BranchRollback, UnyankVersionRequest
from modelregistry.v1.subscription_service_pb2 import GetSubscriptionRequest
from server.core.errors import FieldViolation, InvalidArgument
from server.validation import validate
from server.validation.table import OF_REQUESTS, RULES
from tests.validation.samples import (
    EXPERIMENT,
    FOLDER,
    MODEL,
    UUID,
    VERSION,
    create_version,
    failure,
    rid_of_length,
    with_source,
)

MODEL_OR_FOLDER = ("model", "folder")
SENTENCES = {
    ("model",): "must be the RID of a model, like ri.models.main.model.<uuid>,",
    ("model-version",): "must be the RID of a model-version, like ri.models.main.model-version.<uuid>,",
    ("promotion",): "must be the RID of a promotion, like ri.models.main.promotion.<uuid>,",
    ("yank",): "must be the RID of a yank, like ri.models.main.yank.<uuid>,",
    ("subscription",): "must be the RID of a subscription, like ri.models.main.subscription.<uuid>,",
    ("promotion-request",): "must be the RID of a promotion-request, like ri.models.main.promotion-request.<uuid>,",
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
    (
        PromoteVersionRequest(model_rid=MODEL, source_model_version_rid=VERSION),
        "expected_head_version_rid",
        ("model-version",),
        "wrong",
    ),
    (RollbackBranchRequest(to_version_number=1), "model_rid", ("model",), "missing"),
    (
        RollbackBranchRequest(model_rid=MODEL, to_version_number=1),
        "expected_head_version_rid",
        ("model-version",),
        "wrong",
    ),
    (GetPromotionRequest(), "promotion_rid", ("promotion",), "missing"),
    (ListPromotionsRequest(), "model_rid", ("model",), "wrong"),
    (ListPromotionsRequest(), "source_model_version_rid", ("model-version",), "wrong"),
    (ListPromotionsRequest(), "model_version_rid", ("model-version",), "wrong"),
    (
        ReviewPromotionRequestRequest(verdict=REVIEW_VERDICT_APPROVE),
        "promotion_request_rid",
        ("promotion-request",),
        "missing",
    ),
    (ListPromotionRequestsRequest(), "model_rid", ("model",), "wrong"),
    (GetLineageRequest(), "model_version_rid", ("model-version",), "missing"),
    (SetBranchPolicyRequest(compatibility=COMPATIBILITY_MODE_OFF), "model_rid", ("model",), "missing"),
    (GetBranchPolicyRequest(), "model_rid", ("model",), "missing"),
    (UnyankVersionRequest(), "yank_rid", ("yank",), "missing"),
    (GetSubscriptionRequest(), "subscription_rid", ("subscription",), "missing"),
    (
        BatchRollbackRequest(rollbacks=[BranchRollback(to_version_number=1)]),
        "rollbacks[0].model_rid",
        ("model",),
        "missing",
    ),
    (
        BatchRollbackRequest(rollbacks=[BranchRollback(model_rid=MODEL, to_version_number=1)]),
        "rollbacks[0].expected_head_version_rid",
        ("model-version",),
        "wrong",
    ),
    (GrantRoleRequest(principal="user:u", role=ROLE_OWNER), "resource_rid", MODEL_OR_FOLDER, "missing"),
    (RevokeRoleRequest(principal="user:u"), "resource_rid", MODEL_OR_FOLDER, "missing"),
    (ListGrantsRequest(), "resource_rid", MODEL_OR_FOLDER, "missing"),
    (ListGrantChangesRequest(), "resource_rid", MODEL_OR_FOLDER, "missing"),
    (TransferOwnershipRequest(principal="user:u"), "resource_rid", MODEL_OR_FOLDER, "missing"),
    (SetFolderPolicyRequest(new_model_owner=NEW_MODEL_OWNER_FOLDER), "folder_rid", ("folder",), "missing"),
    (GetFolderPolicyRequest(), "folder_rid", ("folder",), "missing"),
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


def with_rid(message: Message, path: str, rid: str) -> Message:
    """A copy of the message with this RID at this path."""
    changed = type(message)()
    changed.CopyFrom(message)
    *parents, name = path.split(".")
    holder: Any = changed
    for parent in parents:
        field, _, index = parent.removesuffix("]").partition("[")
        holder = getattr(holder, field)[int(index)] if index else getattr(holder, field)
    if name.endswith("]"):
        list_name, index = name.removesuffix("]").split("[")
        getattr(holder, list_name)[int(index)] = rid
    else:
        setattr(holder, name, rid)
    return changed


def assert_refused(message: Message, path: str, rid: str, sentence: str) -> None:
    """With this RID at this path, the message is an InvalidArgument for nothing but that."""
    error = failure(with_rid(message, path, rid))
    assert isinstance(error, InvalidArgument), (message.DESCRIPTOR.name, path, rid)
    assert error.violations == (FieldViolation(path, sentence),), (message.DESCRIPTOR.name, rid)


def test_a_rid_of_the_right_type_passes_up_to_255_bytes() -> None:
    for message, path, kinds, _ in RID_FIELDS:
        for kind in kinds or ("anything",):
            for rid in (f"ri.a..{kind}.b", f"ri.models.main.{kind}.{UUID}", rid_of_length(kind, 255)):
                validate(with_rid(message, path, rid))


def test_a_malformed_rid_is_an_invalid_argument() -> None:
    for message, path, kinds, _ in RID_FIELDS:
        right = f"ri.models.main.{(*kinds, 'anything')[0]}.{UUID}"
        for rid in ("foo", f"{right}\n", right.upper(), f"{right}é", f" {right}", "\x00"):
            assert_refused(message, path, rid, f"{SENTENCES[kinds]} not {rid!r}")


def test_a_rid_of_256_bytes_is_an_invalid_argument() -> None:
    for message, path, kinds, _ in RID_FIELDS:
        long = rid_of_length((*kinds, "anything")[0], 256)
        assert_refused(message, path, long, f"{SENTENCES[kinds]} of at most 255 bytes, not 256")


def test_a_rid_of_the_wrong_type_is_an_invalid_argument() -> None:
    for message, path, kinds, _ in RID_FIELDS:
        if kinds:
            assert_refused(message, path, EXPERIMENT, f"{SENTENCES[kinds]} not {EXPERIMENT!r}")
        else:
            validate(with_rid(message, path, EXPERIMENT))


def test_an_empty_rid_is_an_invalid_argument_where_one_is_expected() -> None:
    for message, path, kinds, empty in RID_FIELDS:
        if empty == "fine":
            validate(with_rid(message, path, ""))
        else:
            assert_refused(message, path, "", "is required" if empty == "missing" else f"{SENTENCES[kinds]} not ''")


def test_every_rid_field_is_in_the_list_above() -> None:
    listed = {path.rpartition(".")[2].partition("[")[0] for _, path, _, _ in RID_FIELDS}
    named_like_one = {row.rpartition(".")[2] for row in (*RULES, *OF_REQUESTS) if row.endswith("rid")}

    assert listed == named_like_one | {"backing_repositories", "linked_experiment"}
