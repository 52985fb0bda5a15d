"""What a call fails with: a class for each error that the registry has a name for, with its parameters.

docs/contract.md of the registry says which RPC fails with which. All of them are a `RegistryError`, and so is a failure
that has no such name: of gRPC itself, or of a server that is newer than this client.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from modelregistry_client.error_base import FieldViolation as FieldViolation
from modelregistry_client.error_base import Parameter
from modelregistry_client.error_base import RegistryError as RegistryError

# Where gRPC puts a google.rpc.Status.
_STATUS = "grpc-status-details-bin"


class RequestIdAlreadyUsed(RegistryError):
    """The same caller has used the request id for another request of the same RPC."""

    request_id = Parameter(str)


class BranchHeadChanged(RegistryError):
    """The branch has another head than the caller thinks; an empty actual RID means that it has none."""

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    expected_head_version_rid = Parameter(str)
    actual_head_version_rid = Parameter(str)


class TooManyModelApis(RegistryError):
    """The heads of the branch have had more distinct Model APIs than a new one is compared with.

    It counts since the revision of the policy, of the model's branch or of the folder with this RID, that set its
    compatibility to ENFORCE_TRANSITIVE. To begin anew, an owner sets another one, and then that again.
    """

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    resource_rid = Parameter(str)
    since_revision = Parameter(int)
    limit = Parameter(int)


class ModelApiIncompatible(RegistryError):
    """The branch enforces compatibility, and the promotion would break callers of the model.

    The first findings are violations. They are on the version of the branch with this number: its head, or an earlier
    one if the policy holds to all of them. A server of an earlier release does not tell the number.
    """

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    error_count = Parameter(int)
    compared_version_number = Parameter(int)


class BranchLocked(RegistryError):
    """The branch gets no new head for now; an empty time means that the lock does not end by itself."""

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    reason = Parameter(str)
    expire_time = Parameter(str)


class BranchAcceptsPromotionsOnly(RegistryError):
    """The policy of the branch or of the folder lets no version be created there: heads come by promotion alone."""

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    resource_rid = Parameter(str)


class SourceNotAllowed(RegistryError):
    """The version is on none of the branches that the policy of a level allows, and was promoted through none."""

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    resource_rid = Parameter(str)
    allowed_sources = Parameter(str)


class SourceTooYoung(RegistryError):
    """The version was not a head of the allowed sources for as long as the policy of a level wants."""

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    resource_rid = Parameter(str)
    seconds_left = Parameter(int)


class VersionRolledBack(RegistryError):
    """The protected or locked branch was rolled back from this content; an owner has it back by `override`."""

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    version_number = Parameter(int)


class ApprovalRequired(RegistryError):
    """A policy of the branch wants approvals that are not there; an empty RID means that none were requested."""

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    required = Parameter(int)
    given = Parameter(int)
    promotion_request_rid = Parameter(str)
    resource_rid = Parameter(str)


class ApprovalsNotRequired(RegistryError):
    """A request for promotion into a branch no policy of which wants approvals, or for a change that needs none."""

    resource_rid = Parameter(str)
    branch_name = Parameter(str)


class PromotionRequestAlreadyOpen(RegistryError):
    """There is an open request for the same source, target and branch."""

    promotion_request_rid = Parameter(str)


class PromotionRequestClosed(RegistryError):
    """The request was carried out, rejected or withdrawn, or its time is over; `state` says which."""

    promotion_request_rid = Parameter(str)
    state = Parameter(str)


class BranchPolicyChanged(RegistryError):
    """The policy of the branch or of the folder has another revision than the caller thinks; 0: none is set."""

    resource_rid = Parameter(str)
    branch_name = Parameter(str)
    expected_revision = Parameter(int)
    actual_revision = Parameter(int)


class VersionYanked(RegistryError):
    """The version must not be promoted, nor rolled back to; all but its RID is empty if the caller may not know it."""

    model_version_rid = Parameter(str)
    yank_rid = Parameter(str)
    yanked_version_rid = Parameter(str)
    yanked_by = Parameter(str)
    reason = Parameter(str)


class YankNotFound(RegistryError):
    """No such yank, or none of a version that the caller may see."""

    yank_rid = Parameter(str)


class PromotionNotFound(RegistryError):
    """No such promotion, or none that the caller may see."""

    promotion_rid = Parameter(str)


class VersionNumberNotFound(RegistryError):
    """A branch that the caller sees has no version of that number."""

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    version_number = Parameter(int)


class VersionAlreadyHead(RegistryError):
    """The version to go back to is the head of the branch as it is."""

    model_rid = Parameter(str)
    branch_name = Parameter(str)
    version_number = Parameter(int)


class MissingCredentials(RegistryError):
    """The call has no bearer token."""


class InvalidCredentials(RegistryError):
    """The token is not one that this server trusts; why is only in the log."""


class KeysUnavailable(RegistryError):
    """The server cannot tell whose tokens to trust: its issuer's keys are out of reach. The call did not execute."""


class ApiUsageDenied(RegistryError):
    """The token is good, but not for this RPC."""

    missing_scope = Parameter(str)


class ApiFeaturePreviewUsageOnly(RegistryError):
    """A preview RPC was called without `preview`."""


class InvalidArgument(RegistryError):
    """Fields that no error of a more telling name covers."""


class InvalidModelApi(RegistryError):
    """A Model API that contradicts itself, or is too large.

    `error_type`: DUPLICATE_NAME, EMPTY_NAME, INVALID_NAME, TYPE_MISSING, NESTING_TOO_DEEP, TOO_LARGE.
    """

    error_type = Parameter(str)
    message = Parameter(str)


class InvalidBranchName(RegistryError):
    """A branch name that breaks the rules for names."""

    branch_name = Parameter(str)


class InvalidDisplayName(RegistryError):
    """A display name that breaks the rules for names."""

    display_name = Parameter(str)


class InvalidPageSize(RegistryError):
    """A page size outside 0 to 1000."""

    page_size = Parameter(int)


class InvalidPageToken(RegistryError):
    """A page token that this query did not hand out."""

    page_token = Parameter(str)


class CursorUnknown(RegistryError):
    """The cursor is not one of this registry as it is now, which may have been restored from a backup since."""

    cursor = Parameter(str)


class CursorExpired(RegistryError):
    """Events behind the cursor are no longer kept: list what is there, and go on from a new cursor."""

    cursor = Parameter(str)


class WatcherTooSlow(RegistryError):
    """The client took none of the events that waited for it; it goes on behind this cursor."""

    cursor = Parameter(str)


class ServerStopping(RegistryError):
    """The server stops: another one goes on behind the last cursor."""


class UnsupportedModelSource(RegistryError):
    """A version whose source the API cannot express, from a legacy or internal workflow."""


class RequestTooLarge(RegistryError):
    """More than one message can carry."""


class PromoteVersionModelPermissionDenied(RegistryError):
    """The caller sees the target model, but may not promote into it."""

    model_rid = Parameter(str)


class CreateModelVersionPermissionDenied(RegistryError):
    """The caller sees the model, but may not create versions in it."""

    model_rid = Parameter(str)


class ReviewPromotionRequestPermissionDenied(RegistryError):
    """No policy of the branch names the caller as an approver, or the caller has a part in what is to be approved."""

    promotion_request_rid = Parameter(str)


class WithdrawPromotionRequestPermissionDenied(RegistryError):
    """The caller sees the request, but did not make it and does not own the model."""

    promotion_request_rid = Parameter(str)


class CreateModelPermissionDenied(RegistryError):
    """The caller may not create models in the folder."""


class RecallPermissionDenied(RegistryError):
    """The caller sees the version, but may not yank it, or not its lineage, or not take the yank back."""

    model_rid = Parameter(str)


class AccessPermissionDenied(RegistryError):
    """The caller may not manage the resource's grants, nor the policies of its branches."""

    resource_rid = Parameter(str)


class PrincipalDisabled(RegistryError):
    """The token is good, and an administrator has disabled its user."""

    principal = Parameter(str)


class AdministratorRequired(RegistryError):
    """The caller is no administrator."""


class ResourceNeedsOwner(RegistryError):
    """The last owner of a resource would lose that role."""

    resource_rid = Parameter(str)
    principal = Parameter(str)


class ModelNotFound(RegistryError):
    """No such model, or none that the caller may see."""

    model_rid = Parameter(str)


class ModelVersionNotFound(RegistryError):
    """No such version, or none that the caller may see."""

    model_rid = Parameter(str)
    model_version_rid = Parameter(str)


class UploadNotFound(RegistryError):
    """No such upload: none of this caller for this model, none that is complete, or none any more."""

    model_rid = Parameter(str)
    upload_id = Parameter(str)


class ModelFilesNotFound(RegistryError):
    """A version that the caller sees has no model files."""

    model_rid = Parameter(str)
    model_version_rid = Parameter(str)


class BranchNotFound(RegistryError):
    """A model that the caller sees has no such branch."""

    model_rid = Parameter(str)
    branch_name = Parameter(str)


class PromotionRequestNotFound(RegistryError):
    """No such request for promotion, or none that the caller may see."""

    promotion_request_rid = Parameter(str)


class ResourceNameAlreadyExists(RegistryError):
    """The folder already holds a model of that name."""

    parent_folder_rid = Parameter(str)
    display_name = Parameter(str)


class Overloaded(RegistryError):
    """Too much at once; the call did not execute."""


class QuotaExceeded(RegistryError):
    """More bytes of model files than the caller, or the folder of the model, may have; `resource` says which."""

    resource = Parameter(str)
    max_bytes = Parameter(int)


class SubscriptionPermissionDenied(RegistryError):
    """The caller owns the resource of the subscription, which acts for another principal."""

    subscription_rid = Parameter(str)
    created_by = Parameter(str)


class SubscriptionNotFound(RegistryError):
    """No such subscription, or none of a model or folder that the caller owns."""

    subscription_rid = Parameter(str)


class DeliveryNotFound(RegistryError):
    """An event that was never queued for the subscription, or whose delivery is no longer kept."""

    subscription_rid = Parameter(str)
    event_id = Parameter(str)


class TooManySubscriptions(RegistryError):
    """As many subscriptions as a model or folder, or as a principal, may have; `resource` says which of them."""

    resource = Parameter(str)
    limit = Parameter(int)


class SecretsUnavailable(RegistryError):
    """The server has no key to encrypt secrets under."""


class RequestTimeout(RegistryError):
    """The request did not arrive in time; the call did not execute."""


class StorageUnavailable(RegistryError):
    """The database or the store of model files cannot be used."""


class Internal(RegistryError):
    """A defect of this service; what happened is in the log line with the same instance id."""


_BY_NAME: Mapping[str, type[RegistryError]] = {each.__name__: each for each in RegistryError.__subclasses__()}


@contextmanager
def failures_typed() -> Iterator[None]:
    """Raise what gRPC raises as the error that it stands for."""
    try:
        yield
    except grpc.RpcError as error:
        raise typed(error) from error


def typed(error: Any) -> RegistryError:
    """Return what gRPC raised as the error that it stands for."""
    if isinstance(error, RegistryError):
        return error
    try:
        details = _details(error)
    except DecodeError:
        details = {}
    name = details[ErrorInfo].metadata.get("errorName") if ErrorInfo in details else None
    return _BY_NAME.get(name or "", RegistryError)(error, name, details)


def _details(error: Any) -> dict[type, Any]:
    """Return the details of a failure by their type; none if they are of another failure than its status code is.

    A proxy may answer with a status of its own, and leave the server's trailers as they are.
    """
    details: dict[type, Any] = {}
    for key, value in error.trailing_metadata() or ():
        if key != _STATUS:
            continue
        status = Status.FromString(value)
        if status.code != error.code().value[0]:
            continue
        for detail in status.details:
            for kind in (ErrorInfo, BadRequest, RetryInfo, RequestInfo):
                if detail.Is(kind.DESCRIPTOR):
                    details[kind] = kind.FromString(detail.value)
    return details
