"""What a call fails with: a class for each error that the registry has a name for, with its parameters.

docs/contract.md of the registry says which RPC fails with which. All of them are a `RegistryError`, and so is a failure
that has no such name: of gRPC itself, or of a server that is newer than this client.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from grpc_status import rpc_status


class FieldViolation(NamedTuple):
    """What is wrong with a field of a request: its path, like `model_api.inputs[0].tabular.name`, and a sentence."""

    field: str
    description: str


class RegistryError(grpc.RpcError):
    """A call failed. `code()`, `details()` and the like are those of gRPC's own error, which is the cause."""

    def __init__(self, error: Any, name: str | None = None, details: Mapping[type, Any] | None = None) -> None:
        super().__init__(error.details())
        found = details or {}
        # And not the error itself, which cannot go to another process.
        self._code: grpc.StatusCode = error.code()
        self._initial_metadata = tuple((key, value) for key, value in error.initial_metadata() or ())
        self._trailing_metadata = tuple((key, value) for key, value in error.trailing_metadata() or ())
        self.name = name
        """The name that docs/contract.md lists; None where gRPC itself failed."""
        info = dict(found[ErrorInfo].metadata) if ErrorInfo in found else {}
        info.pop("errorName", None)
        self.error_instance_id: str | None = info.pop("errorInstanceId", None)
        """What the server's log has for this very failure."""
        self.parameters: Mapping[str, str] = info
        """The offending values by name, such as `modelRid`."""
        bad = found[BadRequest].field_violations if BadRequest in found else ()
        self.violations = tuple(FieldViolation(each.field, each.description) for each in bad)
        """The fields of the request that are at fault."""
        self.retry_after: timedelta | None = found[RetryInfo].retry_delay.ToTimedelta() if RetryInfo in found else None
        """When the same request may succeed, and certainly was not carried out."""
        self.call_id: str | None = found[RequestInfo].request_id if RequestInfo in found else None
        """What the server's log has for this call."""

    def code(self) -> grpc.StatusCode:
        """Return the status code of gRPC."""
        return self._code

    def details(self) -> str:
        """Return a sentence for people."""
        return self.args[0] or ""

    def initial_metadata(self) -> Any:
        """Return the headers of the answer."""
        return self._initial_metadata

    def trailing_metadata(self) -> Any:
        """Return the trailers of the answer."""
        return self._trailing_metadata

    def __reduce__(self) -> Any:
        return _restored, (type(self), self.args, vars(self))

    def __str__(self) -> str:
        instance = f" [{self.error_instance_id}]" if self.error_instance_id else ""
        return f"{self.code().name}: {self.details()}{instance}"


def _restored(kind: type[RegistryError], args: tuple[Any, ...], state: Mapping[str, Any]) -> RegistryError:
    """Return an error that was copied, or came from another process."""
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class _Parameter:
    """A parameter of an error as an attribute: `model_rid` is the parameter `modelRid`."""

    def __set_name__(self, owner: type[RegistryError], name: str) -> None:
        first, *rest = name.split("_")
        self.key = first + "".join(word.capitalize() for word in rest)


class _Text(_Parameter):
    def __get__(self, error: RegistryError, owner: type[RegistryError]) -> str:
        return error.parameters[self.key]


class _Number(_Parameter):
    def __get__(self, error: RegistryError, owner: type[RegistryError]) -> int:
        return int(error.parameters[self.key])


class RequestIdAlreadyUsed(RegistryError):
    """The same caller has used the request id for another request of the same RPC."""

    request_id = _Text()


class BranchHeadChanged(RegistryError):
    """The branch has another head than the caller thinks; an empty actual RID means that it has none."""

    model_rid = _Text()
    branch_name = _Text()
    expected_head_version_rid = _Text()
    actual_head_version_rid = _Text()


class ModelApiIncompatible(RegistryError):
    """The branch enforces compatibility, and the promotion would break somebody. The first findings are violations."""

    model_rid = _Text()
    branch_name = _Text()
    error_count = _Number()


class PromotionNotFound(RegistryError):
    """No such promotion, or none that the caller may see."""

    promotion_rid = _Text()


class VersionNumberNotFound(RegistryError):
    """A branch that the caller sees has no version of that number."""

    model_rid = _Text()
    branch_name = _Text()
    version_number = _Number()


class VersionAlreadyHead(RegistryError):
    """The version to go back to is the head of the branch as it is."""

    model_rid = _Text()
    branch_name = _Text()
    version_number = _Number()


class MissingCredentials(RegistryError):
    """The call has no bearer token."""


class InvalidCredentials(RegistryError):
    """The token is not one that this server trusts; why is only in the log."""


class ApiUsageDenied(RegistryError):
    """The token is good, but not for this RPC."""

    missing_scope = _Text()


class ApiFeaturePreviewUsageOnly(RegistryError):
    """A preview RPC was called without `preview`."""


class InvalidArgument(RegistryError):
    """Fields that no error of a more telling name covers."""


class InvalidModelApi(RegistryError):
    """A Model API that contradicts itself. `error_type`: DUPLICATE_NAME, EMPTY_NAME, TYPE_MISSING, NESTING_TOO_DEEP."""

    error_type = _Text()
    message = _Text()


class InvalidBranchName(RegistryError):
    """A branch name that breaks the rules for names."""

    branch_name = _Text()


class InvalidDisplayName(RegistryError):
    """A display name that breaks the rules for names."""

    display_name = _Text()


class InvalidPageSize(RegistryError):
    """A page size outside 0 to 1000."""

    page_size = _Number()


class InvalidPageToken(RegistryError):
    """A page token that this query did not hand out."""

    page_token = _Text()


class UnsupportedModelSource(RegistryError):
    """A version whose source the API cannot express, from a legacy or internal workflow."""


class RequestTooLarge(RegistryError):
    """More than one message can carry."""


class PromoteVersionModelPermissionDenied(RegistryError):
    """The caller sees the target model, but may not promote into it."""

    model_rid = _Text()


class CreateModelVersionPermissionDenied(RegistryError):
    """The caller sees the model, but may not create versions in it."""

    model_rid = _Text()


class CreateModelPermissionDenied(RegistryError):
    """The caller may not create models in the folder."""


class AccessPermissionDenied(RegistryError):
    """The caller may not manage the resource's grants, nor the policies of its branches."""

    resource_rid = _Text()


class ModelNotFound(RegistryError):
    """No such model, or none that the caller may see."""

    model_rid = _Text()


class ModelVersionNotFound(RegistryError):
    """No such version, or none that the caller may see."""

    model_rid = _Text()
    model_version_rid = _Text()


class UploadNotFound(RegistryError):
    """No such upload: none of this caller for this model, none that is complete, or none any more."""

    model_rid = _Text()
    upload_id = _Text()


class ModelFilesNotFound(RegistryError):
    """A version that the caller sees has no model files."""

    model_rid = _Text()
    model_version_rid = _Text()


class BranchNotFound(RegistryError):
    """A model that the caller sees has no such branch."""

    model_rid = _Text()
    branch_name = _Text()


class ResourceNameAlreadyExists(RegistryError):
    """The folder already holds a model of that name."""

    parent_folder_rid = _Text()
    display_name = _Text()


class Overloaded(RegistryError):
    """Too much at once; the call did not execute."""


class StorageUnavailable(RegistryError):
    """The database or the store of model files cannot be used."""


class Internal(RegistryError):
    """A defect of this service; what happened is in the log line with the same instance id."""


_BY_NAME: Mapping[str, type[RegistryError]] = {each.__name__: each for each in RegistryError.__subclasses__()}


def typed(error: Any) -> RegistryError:
    """Return what gRPC raised as the error that it stands for."""
    if isinstance(error, RegistryError):
        return error
    details: dict[type, Any] = {}
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        for kind in (ErrorInfo, BadRequest, RetryInfo, RequestInfo):
            if detail.Is(kind.DESCRIPTOR):
                details[kind] = kind.FromString(detail.value)
    name = details[ErrorInfo].metadata.get("errorName") if ErrorInfo in details else None
    return _BY_NAME.get(name or "", RegistryError)(error, name, details)
