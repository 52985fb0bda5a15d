"""Every failure that the service answers with: its name, its gRPC code, its parameters.

An error's name is its class's name, and its parameters are the fields that its class adds, in lowerCamelCase. How it
looks on the wire is the business of `server.rpc.status` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from google.rpc import code_pb2

from server.error_base import HTTP_STATUS as HTTP_STATUS
from server.error_base import FieldViolation as FieldViolation
from server.error_base import RegistryError as RegistryError
from server.error_base import lower_camel as lower_camel
from server.promotion_errors import BranchHeadChanged as BranchHeadChanged
from server.promotion_errors import ModelApiIncompatible as ModelApiIncompatible
from server.promotion_errors import PromotionNotFound as PromotionNotFound
from server.promotion_errors import RequestIdAlreadyUsed as RequestIdAlreadyUsed
from server.promotion_errors import VersionAlreadyHead as VersionAlreadyHead
from server.promotion_errors import VersionNumberNotFound as VersionNumberNotFound

# Who is calling


@dataclass(eq=False, kw_only=True)
class MissingCredentials(RegistryError):
    """The call has no bearer token."""

    code = code_pb2.UNAUTHENTICATED
    description = "The call carries no credentials: send `authorization: Bearer <JWT>`."


@dataclass(eq=False, kw_only=True)
class InvalidCredentials(RegistryError):
    """The token is not one that this server trusts; why is only in the log."""

    code = code_pb2.UNAUTHENTICATED
    description = "The credentials are malformed, expired or not trusted here."


@dataclass(eq=False, kw_only=True)
class ApiUsageDenied(RegistryError):
    """The token is good, but not for this RPC."""

    code = code_pb2.PERMISSION_DENIED
    description = "The token lacks the scope that this call requires."
    missing_scope: str


# What was asked


@dataclass(eq=False, kw_only=True)
class ApiFeaturePreviewUsageOnly(RegistryError):
    """A preview RPC was called without `preview`."""

    code = code_pb2.INVALID_ARGUMENT
    description = "This call is in preview: set preview to true to use it."


@dataclass(eq=False, kw_only=True)
class InvalidArgument(RegistryError):
    """Fields that no error of a more telling name covers."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The request is not valid."


@dataclass(eq=False, kw_only=True)
class InvalidModelApi(RegistryError):
    """A Model API that contradicts itself.

    `error_type`: DUPLICATE_NAME, EMPTY_NAME, INVALID_NAME, TYPE_MISSING, NESTING_TOO_DEEP.
    """

    code = code_pb2.INVALID_ARGUMENT
    description = "The Model API is not valid."
    error_type: str
    message: str


@dataclass(eq=False, kw_only=True)
class InvalidBranchName(RegistryError):
    """A branch name that breaks the rules for names."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The branch name is not valid."
    branch_name: str


@dataclass(eq=False, kw_only=True)
class InvalidDisplayName(RegistryError):
    """A display name that breaks the rules for names."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The display name is not valid."
    display_name: str


@dataclass(eq=False, kw_only=True)
class InvalidPageSize(RegistryError):
    """A page size outside 0 to 1000."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The page size must be from 0 to 1000."
    page_size: int


@dataclass(eq=False, kw_only=True)
class InvalidPageToken(RegistryError):
    """A page token that this query did not hand out."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The page token does not belong to this query."
    page_token: str


@dataclass(eq=False, kw_only=True)
class UnsupportedModelSource(RegistryError):
    """A version whose source the API cannot express, from a legacy or internal workflow."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The Model Version has a source type that is not supported by the API."


@dataclass(eq=False, kw_only=True)
class RequestTooLarge(RegistryError):
    """More than one message can carry."""

    code = code_pb2.RESOURCE_EXHAUSTED
    http_status = 413
    description = "The request is too large. Model files of any size go through UploadModelFiles."


# What the caller may do


@dataclass(eq=False, kw_only=True)
class PromoteVersionModelPermissionDenied(RegistryError):
    """The caller sees the target model, but may not promote into it."""

    code = code_pb2.PERMISSION_DENIED
    description = "Could not promoteVersion the Model."
    model_rid: str


@dataclass(eq=False, kw_only=True)
class CreateModelVersionPermissionDenied(RegistryError):
    """The caller sees the model, but may not create versions in it."""

    code = code_pb2.PERMISSION_DENIED
    description = "Could not create the ModelVersion."
    model_rid: str


@dataclass(eq=False, kw_only=True)
class CreateModelPermissionDenied(RegistryError):
    """The caller may not create models in the folder."""

    code = code_pb2.PERMISSION_DENIED
    description = "Could not create the Model."


@dataclass(eq=False, kw_only=True)
class AccessPermissionDenied(RegistryError):
    """The caller may not manage the resource's grants, nor the policies of its branches."""

    code = code_pb2.PERMISSION_DENIED
    description = "Only an owner manages the grants and policies of a resource."
    resource_rid: str


# What is there


@dataclass(eq=False, kw_only=True)
class ModelNotFound(RegistryError):
    """No such model, or none that the caller may see."""

    code = code_pb2.NOT_FOUND
    description = "The given Model could not be found."
    model_rid: str


@dataclass(eq=False, kw_only=True)
class ModelVersionNotFound(RegistryError):
    """No such version, or none that the caller may see."""

    code = code_pb2.NOT_FOUND
    description = "The given ModelVersion could not be found."
    model_rid: str
    model_version_rid: str


@dataclass(eq=False, kw_only=True)
class UploadNotFound(RegistryError):
    """No such upload: none of this caller for this model, none that is complete, or none any more."""

    code = code_pb2.NOT_FOUND
    description = "The given upload of model files could not be found; it may have expired."
    model_rid: str
    upload_id: str


@dataclass(eq=False, kw_only=True)
class ModelFilesNotFound(RegistryError):
    """A version that the caller sees has no model files."""

    code = code_pb2.NOT_FOUND
    description = "The given ModelVersion has no model files."
    model_rid: str
    model_version_rid: str


@dataclass(eq=False, kw_only=True)
class BranchNotFound(RegistryError):
    """A model that the caller sees has no such branch."""

    code = code_pb2.NOT_FOUND
    description = "The given Branch could not be found."
    model_rid: str
    branch_name: str


@dataclass(eq=False, kw_only=True)
class ResourceNameAlreadyExists(RegistryError):
    """The folder already holds a model of that name."""

    code = code_pb2.ALREADY_EXISTS
    description = "The folder already holds a resource of that name."
    parent_folder_rid: str
    display_name: str


# What the service can do just now


@dataclass(eq=False, kw_only=True)
class Overloaded(RegistryError):
    """Too much at once; the call did not execute."""

    code = code_pb2.RESOURCE_EXHAUSTED
    description = "The service is overloaded; the call was not executed."
    retry_after: timedelta | None = timedelta(seconds=1)


@dataclass(eq=False, kw_only=True)
class RequestTimeout(RegistryError):
    """A request that did not arrive in time; it was not executed."""

    code = code_pb2.DEADLINE_EXCEEDED
    http_status = 408
    description = "The request did not arrive in time; it was not executed."


@dataclass(eq=False, kw_only=True)
class StorageUnavailable(RegistryError):
    """The database or the store of model files cannot be used.

    No retry where a write may have been applied, since the database went away during its COMMIT, and where none helps.
    """

    code = code_pb2.UNAVAILABLE
    description = "The storage is unavailable."
    retry_after: timedelta | None = timedelta(seconds=1)


@dataclass(eq=False, kw_only=True)
class Internal(RegistryError):
    """A defect of this service; what happened is in the log line with the same instance id."""

    code = code_pb2.INTERNAL
    description = "Something went wrong inside the service."
