"""Every failure that the service answers with: its name, its gRPC code, its parameters.

An error's name is its class's name, and its parameters are the fields that its class adds, in lowerCamelCase. How it
looks on the wire is the business of `server.rpc.status` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import ClassVar, NamedTuple, dataclass_transform

from google.rpc import code_pb2

from server.core.uuids import new_uuid


class FieldViolation(NamedTuple):
    """What is wrong with a field of a request: its path, like `model_api.inputs[0].tabular.name`, and a sentence."""

    field: str
    description: str


# What HTTP says for a gRPC code, unless an error's class says otherwise.
HTTP_STATUS = {
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.CANCELLED: 499,
    code_pb2.INTERNAL: 500,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
}


@dataclass_transform(eq_default=False, kw_only_default=True)
@dataclass(eq=False, kw_only=True)
class RegistryError(Exception):
    """A failure with a name; subclasses are dataclasses, and add their parameters as fields."""

    code: ClassVar[int]  # google.rpc.Code
    http_status: ClassVar[int]
    description: ClassVar[str]

    violations: tuple[FieldViolation, ...] = ()
    # What people should know beside the description; clients do not switch on it.
    explanation: str = ""
    # When a retry can help; None where it cannot, or where the call may have been executed.
    retry_after: timedelta | None = None
    instance_id: str = field(default_factory=new_uuid)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "http_status" not in vars(cls):
            cls.http_status = HTTP_STATUS[cls.code]
        dataclass(eq=False, kw_only=True)(cls)

    @property
    def name(self) -> str:
        """The name that clients switch on, such as `ModelNotFound`."""
        return type(self).__name__

    @property
    def parameters(self) -> dict[str, str]:
        """The offending values by parameter name, such as `modelRid`."""
        own = {f.name for f in fields(self)} - {f.name for f in fields(RegistryError)}
        return {lower_camel(f.name): str(getattr(self, f.name)) for f in fields(self) if f.name in own}

    def __str__(self) -> str:
        text = f"{self.description} {self.explanation}".rstrip()
        details = [f"{key}: {value}" for key, value in self.parameters.items()]
        details += [f"{violation.field}: {violation.description}" for violation in self.violations]
        return text + (f" ({'; '.join(details)})" if details else "")


def lower_camel(snake: str) -> str:
    """`model_rid` → `modelRid`."""
    first, *rest = snake.split("_")
    return first + "".join(word.capitalize() for word in rest)


# Who is calling


class MissingCredentials(RegistryError):
    """The call has no bearer token."""

    code = code_pb2.UNAUTHENTICATED
    description = "The call carries no credentials: send `authorization: Bearer <JWT>`."


class InvalidCredentials(RegistryError):
    """The token is not one that this server trusts; why is only in the log."""

    code = code_pb2.UNAUTHENTICATED
    description = "The credentials are malformed, expired or not trusted here."


class KeysUnavailable(RegistryError):
    """No token can be judged, since the keys of the tokens' issuer could not be refreshed for too long."""

    code = code_pb2.UNAVAILABLE
    description = "The keys of the tokens' issuer are out of reach, so that no token can be trusted."
    retry_after: timedelta | None = timedelta(seconds=30)


class ApiUsageDenied(RegistryError):
    """The token is good, but not for this RPC."""

    code = code_pb2.PERMISSION_DENIED
    description = "The token lacks the scope that this call requires."
    missing_scope: str


# What was asked


class ApiFeaturePreviewUsageOnly(RegistryError):
    """A preview RPC was called without `preview`."""

    code = code_pb2.INVALID_ARGUMENT
    description = "This call is in preview: set preview to true to use it."


class InvalidArgument(RegistryError):
    """Fields that no error of a more telling name covers."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The request is not valid."


class InvalidModelApi(RegistryError):
    """A Model API that contradicts itself, or is too large.

    `error_type`: DUPLICATE_NAME, EMPTY_NAME, INVALID_NAME, TYPE_MISSING, NESTING_TOO_DEEP, TOO_LARGE.
    """

    code = code_pb2.INVALID_ARGUMENT
    description = "The Model API is not valid."
    error_type: str
    message: str


class InvalidBranchName(RegistryError):
    """A branch name that breaks the rules for names."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The branch name is not valid."
    branch_name: str


class InvalidDisplayName(RegistryError):
    """A display name that breaks the rules for names."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The display name is not valid."
    display_name: str


class InvalidPageSize(RegistryError):
    """A page size outside 0 to 1000."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The page size must be from 0 to 1000."
    page_size: int


class InvalidPageToken(RegistryError):
    """A page token that this query did not hand out."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The page token does not belong to this query."
    page_token: str


class CursorUnknown(RegistryError):
    """A place in the log of events that this registry, as it is now, does not have.

    It is of another registry, or of a time that this one has lost, when it was restored from a backup or when a standby
    took over.
    """

    code = code_pb2.OUT_OF_RANGE
    description = (
        "The cursor is not one of this registry as it is now: list what is there, and go on from a new cursor."
    )
    cursor: str


class CursorExpired(RegistryError):
    """A place in the log of events behind which some were removed, since they are past their retention."""

    code = code_pb2.OUT_OF_RANGE
    description = (
        "Events behind the cursor are no longer kept: list what is there, and go on from a new cursor."
        " ListPromotions has all promotions."
    )
    cursor: str


class UnsupportedModelSource(RegistryError):
    """A version whose source the API cannot express, from a legacy or internal workflow."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The Model Version has a source type that is not supported by the API."


class RequestTooLarge(RegistryError):
    """More than one message can carry."""

    code = code_pb2.RESOURCE_EXHAUSTED
    http_status = 413
    description = "The request is too large. Model files of any size go through UploadModelFiles."


# What the caller may do


class PromoteVersionModelPermissionDenied(RegistryError):
    """The caller sees the target model, but may not promote into it."""

    code = code_pb2.PERMISSION_DENIED
    description = "Could not promoteVersion the Model."
    model_rid: str


class ReviewPromotionRequestPermissionDenied(RegistryError):
    """No policy of the branch names the caller as an approver, or the caller has a part in what is to be approved."""

    code = code_pb2.PERMISSION_DENIED
    description = (
        "Reviews are for the approvers that the policies of the branch name, see GetBranchPolicy. None approves what it"
        " requested itself, or created or promoted on its way."
    )
    promotion_request_rid: str


class WithdrawPromotionRequestPermissionDenied(RegistryError):
    """The caller sees the request, but did not make it and does not own the model."""

    code = code_pb2.PERMISSION_DENIED
    description = "A request for promotion is withdrawn by who made it, or by an owner of the model."
    promotion_request_rid: str


class CreateModelVersionPermissionDenied(RegistryError):
    """The caller sees the model, but may not create versions in it."""

    code = code_pb2.PERMISSION_DENIED
    description = "Could not create the ModelVersion."
    model_rid: str


class CreateModelPermissionDenied(RegistryError):
    """The caller may not create models in the folder."""

    code = code_pb2.PERMISSION_DENIED
    description = "Could not create the Model."


class RecallPermissionDenied(RegistryError):
    """The caller sees the version, but may not yank it, or not its lineage, or not take the yank back."""

    code = code_pb2.PERMISSION_DENIED
    description = (
        "Editors of its model yank a version, owners of the model of its root the lineage; owners of these take a yank"
        " back."
    )
    model_rid: str


class AccessPermissionDenied(RegistryError):
    """The caller may not manage the resource's grants, nor the policies of its branches."""

    code = code_pb2.PERMISSION_DENIED
    description = "Only an owner manages the grants and policies of a resource."
    resource_rid: str


class PrincipalDisabled(RegistryError):
    """The token is good, and an administrator has disabled its user: `principal_changes` has who, when and why.

    Or a group of it, while the call was under way.
    """

    code = code_pb2.PERMISSION_DENIED
    description = "An administrator has disabled this principal; another one can enable it."
    principal: str


class SubscriptionPermissionDenied(RegistryError):
    """The caller owns the resource of the subscription, which acts for another principal."""

    code = code_pb2.PERMISSION_DENIED
    description = (
        "Only the principal for whom a subscription acts says where it sends what that principal may see, and has its"
        " secret. Delete it, and create one of your own."
    )
    subscription_rid: str
    created_by: str


class AdministratorRequired(RegistryError):
    """The caller is no administrator."""

    code = code_pb2.PERMISSION_DENIED
    description = "Only administrators of the registry may do this."


class ResourceNeedsOwner(RegistryError):
    """The last owner of a resource would lose that role."""

    code = code_pb2.FAILED_PRECONDITION
    description = "The resource would have no owner: make another principal its owner first, or ask an administrator."
    resource_rid: str
    principal: str


# What is there


class ModelNotFound(RegistryError):
    """No such model, or none that the caller may see."""

    code = code_pb2.NOT_FOUND
    description = "The given Model could not be found."
    model_rid: str


class ModelVersionNotFound(RegistryError):
    """No such version, or none that the caller may see."""

    code = code_pb2.NOT_FOUND
    description = "The given ModelVersion could not be found."
    model_rid: str
    model_version_rid: str


class UploadNotFound(RegistryError):
    """No such upload: none of this caller for this model, none that is complete, or none any more."""

    code = code_pb2.NOT_FOUND
    description = "The given upload of model files could not be found; it may have expired."
    model_rid: str
    upload_id: str


class ModelFilesNotFound(RegistryError):
    """A version that the caller sees has no model files."""

    code = code_pb2.NOT_FOUND
    description = "The given ModelVersion has no model files."
    model_rid: str
    model_version_rid: str


class SubscriptionNotFound(RegistryError):
    """No such subscription, or none of a model or folder that the caller owns."""

    code = code_pb2.NOT_FOUND
    description = "The given Subscription could not be found."
    subscription_rid: str


class DeliveryNotFound(RegistryError):
    """An event that was never queued for the subscription, or whose delivery is no longer kept."""

    code = code_pb2.NOT_FOUND
    description = (
        "There is no delivery of the given event to the Subscription; RedeliverEvents from a cursor makes one."
    )
    subscription_rid: str
    event_id: str


class BranchNotFound(RegistryError):
    """A model that the caller sees has no such branch."""

    code = code_pb2.NOT_FOUND
    description = "The given Branch could not be found."
    model_rid: str
    branch_name: str


class ResourceNameAlreadyExists(RegistryError):
    """The folder already holds a model of that name."""

    code = code_pb2.ALREADY_EXISTS
    description = "The folder already holds a resource of that name."
    parent_folder_rid: str
    display_name: str


# What the service can do just now


class Overloaded(RegistryError):
    """Too much at once; the call did not execute."""

    code = code_pb2.RESOURCE_EXHAUSTED
    description = "The service is overloaded; the call was not executed."
    retry_after: timedelta | None = timedelta(seconds=1)


class WatcherTooSlow(RegistryError):
    """A stream whose client takes nothing of what waits for it; `cursor` is that of the last that was sent."""

    code = code_pb2.RESOURCE_EXHAUSTED
    description = "The client did not take what was sent: go on from the last cursor."
    cursor: str


class QuotaExceeded(RegistryError):
    """More bytes of model files than the caller, or the folder of the model, may have; `resource` says which."""

    code = code_pb2.RESOURCE_EXHAUSTED
    description = (
        "The model files would be more bytes than may count for the resource. Uploads that no version names count until"
        " they expire; an operator can allow more."
    )
    resource: str
    max_bytes: int


class TooManySubscriptions(RegistryError):
    """As many subscriptions as a model or folder, or as a principal, may have; `resource` says which of them."""

    code = code_pb2.FAILED_PRECONDITION
    description = "There are as many subscriptions as there may be: delete one that is of no use any more."
    resource: str
    limit: int


class SecretsUnavailable(RegistryError):
    """The server has no key to encrypt secrets under; why is in its log."""

    code = code_pb2.UNAVAILABLE
    description = "The server cannot keep secrets: its operator has to give it a file for --secrets-key-file."


class RequestTimeout(RegistryError):
    """A request that did not arrive in time; it was not executed."""

    code = code_pb2.DEADLINE_EXCEEDED
    http_status = 408
    description = "The request did not arrive in time; it was not executed."


class StorageUnavailable(RegistryError):
    """The database or the store of model files cannot be used.

    No retry where a write may have been applied, since the database went away during its COMMIT, and where none helps.
    """

    code = code_pb2.UNAVAILABLE
    description = "The storage is unavailable."
    retry_after: timedelta | None = timedelta(seconds=1)


class ServerStopping(RegistryError):
    """The server that sent a stream stops; others go on."""

    code = code_pb2.UNAVAILABLE
    description = "The server stops: go on from the last cursor, which any other server of the registry knows."
    retry_after: timedelta | None = timedelta(seconds=1)


class Internal(RegistryError):
    """A defect of this service; what happened is in the log line with the same instance id."""

    code = code_pb2.INTERNAL
    description = "Something went wrong inside the service."


# What speaks against a promotion


class RequestIdAlreadyUsed(RegistryError):
    """The same caller has used the request id for another request of the same RPC."""

    code = code_pb2.ALREADY_EXISTS
    description = "The request id was used for another request before."
    request_id: str


class BranchHeadChanged(RegistryError):
    """The branch has another head than the caller thinks; an empty actual RID means that it has none."""

    code = code_pb2.ABORTED
    description = "The head of the branch is not the one that was expected."
    model_rid: str
    branch_name: str
    expected_head_version_rid: str
    actual_head_version_rid: str


class TooManyModelApis(RegistryError):
    """The heads of the branch have had more Model APIs than a new one is compared with under its policy."""

    code = code_pb2.FAILED_PRECONDITION
    description = (
        "The heads of the branch have had more distinct Model APIs since its compatibility is ENFORCE_TRANSITIVE than a"
        " new one is compared with. An owner of the model or folder whose policy says so sets it to ENFORCE, and then"
        " to ENFORCE_TRANSITIVE again: it counts from the head of then. RollbackBranch passes."
    )
    model_rid: str
    branch_name: str
    resource_rid: str
    since_revision: int
    limit: int


class ModelApiIncompatible(RegistryError):
    """The branch enforces compatibility, and the new head breaks callers or consumers; findings are violations.

    They are on one version of the branch: its head or, where it is compared with all of them, an earlier one.
    """

    code = code_pb2.FAILED_PRECONDITION
    description = (
        "The Model API is not compatible with that of the branch's head, or of an earlier one that still counts;"
        " CheckPromotion lists all findings."
    )
    model_rid: str
    branch_name: str
    error_count: int
    compared_version_number: int


class BranchLocked(RegistryError):
    """The branch gets no new head for now; an empty time means that the lock does not end by itself."""

    code = code_pb2.FAILED_PRECONDITION
    description = (
        "The branch is locked. RollbackBranch passes, with a reason; for others, an owner of the model unlocks it."
    )
    model_rid: str
    branch_name: str
    reason: str
    expire_time: str


class BranchAcceptsPromotionsOnly(RegistryError):
    """The policy of the branch, or of the model's folder, lets no version be created there."""

    code = code_pb2.FAILED_PRECONDITION
    description = (
        "The policy of the branch lets heads come by promotion alone: create the version on another branch, or in"
        " another model, and promote it."
    )
    model_rid: str
    branch_name: str
    resource_rid: str


class SourceNotAllowed(RegistryError):
    """The version was on none of the branches that the policy of the branch, or of the model's folder, allows.

    `allowed_sources` are those of them that the caller may see.
    """

    code = code_pb2.FAILED_PRECONDITION
    description = (
        "The version is on none of the branches that this policy allows as sources, and was promoted through none:"
        " promote it through one of them first. GetBranchPolicy lists them."
    )
    model_rid: str
    branch_name: str
    resource_rid: str
    allowed_sources: str


class SourceTooYoung(RegistryError):
    """The version has not been a head for as long as the policy of the branch, or of the model's folder, wants."""

    code = code_pb2.FAILED_PRECONDITION
    description = (
        "The version has not been a head of the branches that this policy allows as sources for long enough. While it"
        " is one, its time goes on: promote it again when the seconds that are left have passed."
    )
    model_rid: str
    branch_name: str
    resource_rid: str
    seconds_left: int


class VersionRolledBack(RegistryError):
    """The branch was rolled back from this content before, and has a rule or a lock."""

    code = code_pb2.FAILED_PRECONDITION
    description = (
        "The branch was rolled back from this version, or from one of equal content: go back to another one, or promote"
        " it again. An owner can have it back by `override`, with a reason."
    )
    model_rid: str
    branch_name: str
    version_number: int


class ApprovalRequired(RegistryError):
    """A policy of the branch wants approvals that are not there; an empty RID means that none were requested.

    A request counts once, for the head or the policy that its reviewers saw, and not with an approval by who carries it
    out. `model_rid` is empty if the policy of a folder is to be changed.
    """

    code = code_pb2.FAILED_PRECONDITION
    description = (
        "The branch wants approvals first: request them with CreatePromotionRequest, or with CreatePolicyChangeRequest"
        " where its policy is to be weakened, and have its approvers review the request."
    )
    model_rid: str
    branch_name: str
    required: int
    given: int
    promotion_request_rid: str
    resource_rid: str


class ApprovalsNotRequired(RegistryError):
    """A request for promotion into a branch no policy of which wants approvals, or for a change of such a policy.

    Or for a change that weakens nothing. `resource_rid` is the model or folder that the request is for.
    """

    code = code_pb2.FAILED_PRECONDITION
    description = (
        "No approvals are wanted: promote the version with PromoteVersion, or change the policy with SetBranchPolicy or"
        " SetFolderBranchPolicy."
    )
    resource_rid: str
    branch_name: str


class PromotionRequestAlreadyOpen(RegistryError):
    """There is an open request for the same source, target and branch, or for the same change of a policy."""

    code = code_pb2.ALREADY_EXISTS
    description = "The same was requested before: let that request be reviewed, or withdraw it first."
    promotion_request_rid: str


class PromotionRequestClosed(RegistryError):
    """The request was carried out, rejected or withdrawn, or its time is over; `state` says which."""

    code = code_pb2.FAILED_PRECONDITION
    description = "The request is closed: make another one with CreatePromotionRequest or CreatePolicyChangeRequest."
    promotion_request_rid: str
    state: str


class BranchPolicyChanged(RegistryError):
    """The policy of the model's branch, or of the folder, has another revision than the caller thinks.

    0 means that none is set.
    """

    code = code_pb2.ABORTED
    description = "The policy of the branch is not the one that was expected: look at it again with GetBranchPolicy."
    resource_rid: str
    branch_name: str
    expected_revision: int
    actual_revision: int


class VersionYanked(RegistryError):
    """The version must not be promoted, nor rolled back to; all but its RID is empty if the caller may not know it."""

    code = code_pb2.FAILED_PRECONDITION
    description = (
        "The version was yanked, or one that it was promoted from, or its lineage: take one that was not. Those who may"
        " see what was yanked find the yank with ListYanks, and an owner takes it back with UnyankVersion."
    )
    model_version_rid: str
    yank_rid: str
    yanked_version_rid: str
    yanked_by: str
    reason: str


class YankNotFound(RegistryError):
    """No such yank, or none of a version that the caller may see."""

    code = code_pb2.NOT_FOUND
    description = "The given Yank could not be found."
    yank_rid: str


class PromotionNotFound(RegistryError):
    """No such promotion, or none that the caller may see."""

    code = code_pb2.NOT_FOUND
    description = "The given Promotion could not be found."
    promotion_rid: str


class PromotionRequestNotFound(RegistryError):
    """No such request for promotion, or none that the caller may see."""

    code = code_pb2.NOT_FOUND
    description = "The given PromotionRequest could not be found."
    promotion_request_rid: str


class VersionNumberNotFound(RegistryError):
    """A branch that the caller sees has no version of that number."""

    code = code_pb2.NOT_FOUND
    description = "The branch has no version of that number."
    model_rid: str
    branch_name: str
    version_number: int


class VersionAlreadyHead(RegistryError):
    """The version to go back to is the head of the branch as it is."""

    code = code_pb2.FAILED_PRECONDITION
    description = "The version is the head of the branch already."
    model_rid: str
    branch_name: str
    version_number: int
