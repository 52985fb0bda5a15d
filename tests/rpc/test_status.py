"""How errors look on the wire, and that the table of errors is complete."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from server.core import errors
from server.core.errors import FieldViolation, InvalidArgument, InvalidDisplayName, RegistryError
from server.rpc.status import MAX_STATUS_BYTES, to_status

# The contract's table: name, gRPC code, HTTP status, parameters.
TABLE = {
    "MissingCredentials": ("UNAUTHENTICATED", 401, ()),
    "InvalidCredentials": ("UNAUTHENTICATED", 401, ()),
    "KeysUnavailable": ("UNAVAILABLE", 503, ()),
    "ApiUsageDenied": ("PERMISSION_DENIED", 403, ("missingScope",)),
    "ApiFeaturePreviewUsageOnly": ("INVALID_ARGUMENT", 400, ()),
    "InvalidArgument": ("INVALID_ARGUMENT", 400, ()),
    "InvalidModelApi": ("INVALID_ARGUMENT", 400, ("errorType", "message")),
    "InvalidBranchName": ("INVALID_ARGUMENT", 400, ("branchName",)),
    "InvalidDisplayName": ("INVALID_ARGUMENT", 400, ("displayName",)),
    "InvalidPageSize": ("INVALID_ARGUMENT", 400, ("pageSize",)),
    "InvalidPageToken": ("INVALID_ARGUMENT", 400, ("pageToken",)),
    "CursorUnknown": ("OUT_OF_RANGE", 400, ("cursor",)),
    "CursorExpired": ("OUT_OF_RANGE", 400, ("cursor",)),
    "UnsupportedModelSource": ("INVALID_ARGUMENT", 400, ()),
    "PromoteVersionModelPermissionDenied": ("PERMISSION_DENIED", 403, ("modelRid",)),
    "CreateModelVersionPermissionDenied": ("PERMISSION_DENIED", 403, ("modelRid",)),
    "ReviewPromotionRequestPermissionDenied": ("PERMISSION_DENIED", 403, ("promotionRequestRid",)),
    "WithdrawPromotionRequestPermissionDenied": ("PERMISSION_DENIED", 403, ("promotionRequestRid",)),
    "CreateModelPermissionDenied": ("PERMISSION_DENIED", 403, ()),
    "RecallPermissionDenied": ("PERMISSION_DENIED", 403, ("modelRid",)),
    "AccessPermissionDenied": ("PERMISSION_DENIED", 403, ("resourceRid",)),
    "PrincipalDisabled": ("PERMISSION_DENIED", 403, ("principal",)),
    "SubscriptionPermissionDenied": ("PERMISSION_DENIED", 403, ("subscriptionRid", "createdBy")),
    "AdministratorRequired": ("PERMISSION_DENIED", 403, ()),
    "ResourceNeedsOwner": ("FAILED_PRECONDITION", 400, ("resourceRid", "principal")),
    "ModelNotFound": ("NOT_FOUND", 404, ("modelRid",)),
    "ModelVersionNotFound": ("NOT_FOUND", 404, ("modelRid", "modelVersionRid")),
    "UploadNotFound": ("NOT_FOUND", 404, ("modelRid", "uploadId")),
    "ModelFilesNotFound": ("NOT_FOUND", 404, ("modelRid", "modelVersionRid")),
    "BranchNotFound": ("NOT_FOUND", 404, ("modelRid", "branchName")),
    "YankNotFound": ("NOT_FOUND", 404, ("yankRid",)),
    "SubscriptionNotFound": ("NOT_FOUND", 404, ("subscriptionRid",)),
    "DeliveryNotFound": ("NOT_FOUND", 404, ("subscriptionRid", "eventId")),
    "PromotionRequestNotFound": ("NOT_FOUND", 404, ("promotionRequestRid",)),
    "PromotionNotFound": ("NOT_FOUND", 404, ("promotionRid",)),
    "VersionNumberNotFound": ("NOT_FOUND", 404, ("modelRid", "branchName", "versionNumber")),
    "RequestIdAlreadyUsed": ("ALREADY_EXISTS", 409, ("requestId",)),
    "BranchHeadChanged": (
        "ABORTED",
        409,
        ("modelRid", "branchName", "expectedHeadVersionRid", "actualHeadVersionRid"),
    ),
    "TooManyModelApis": (
        "FAILED_PRECONDITION",
        400,
        ("modelRid", "branchName", "resourceRid", "sinceRevision", "limit"),
    ),
    "ModelApiIncompatible": (
        "FAILED_PRECONDITION",
        400,
        ("modelRid", "branchName", "errorCount", "comparedVersionNumber"),
    ),
    "BranchLocked": ("FAILED_PRECONDITION", 400, ("modelRid", "branchName", "reason", "expireTime")),
    "BranchAcceptsPromotionsOnly": ("FAILED_PRECONDITION", 400, ("modelRid", "branchName", "resourceRid")),
    "SourceNotAllowed": ("FAILED_PRECONDITION", 400, ("modelRid", "branchName", "resourceRid", "allowedSources")),
    "SourceTooYoung": ("FAILED_PRECONDITION", 400, ("modelRid", "branchName", "resourceRid", "secondsLeft")),
    "VersionRolledBack": ("FAILED_PRECONDITION", 400, ("modelRid", "branchName", "versionNumber")),
    "ApprovalRequired": (
        "FAILED_PRECONDITION",
        400,
        ("modelRid", "branchName", "required", "given", "promotionRequestRid", "resourceRid"),
    ),
    "ApprovalsNotRequired": ("FAILED_PRECONDITION", 400, ("resourceRid", "branchName")),
    "PromotionRequestAlreadyOpen": ("ALREADY_EXISTS", 409, ("promotionRequestRid",)),
    "PromotionRequestClosed": ("FAILED_PRECONDITION", 400, ("promotionRequestRid", "state")),
    "BranchPolicyChanged": ("ABORTED", 409, ("resourceRid", "branchName", "expectedRevision", "actualRevision")),
    "VersionYanked": (
        "FAILED_PRECONDITION",
        400,
        ("modelVersionRid", "yankRid", "yankedVersionRid", "yankedBy", "reason"),
    ),
    "VersionAlreadyHead": ("FAILED_PRECONDITION", 400, ("modelRid", "branchName", "versionNumber")),
    "ResourceNameAlreadyExists": ("ALREADY_EXISTS", 409, ("parentFolderRid", "displayName")),
    "RequestTooLarge": ("RESOURCE_EXHAUSTED", 413, ()),
    "Overloaded": ("RESOURCE_EXHAUSTED", 429, ()),
    "WatcherTooSlow": ("RESOURCE_EXHAUSTED", 429, ("cursor",)),
    "TooManySubscriptions": ("FAILED_PRECONDITION", 400, ("resource", "limit")),
    "SecretsUnavailable": ("UNAVAILABLE", 503, ()),
    "QuotaExceeded": ("RESOURCE_EXHAUSTED", 429, ("resource", "maxBytes")),
    "RequestTimeout": ("DEADLINE_EXCEEDED", 408, ()),
    "StorageUnavailable": ("UNAVAILABLE", 503, ()),
    "ServerStopping": ("UNAVAILABLE", 503, ()),
    "Internal": ("INTERNAL", 500, ()),
}
# A retry helps where the service, and not the request, was at fault.
RETRYABLE = {"KeysUnavailable", "Overloaded", "ServerStopping", "StorageUnavailable"}


def every_error() -> dict[str, type[RegistryError]]:
    found = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, RegistryError)]
    return {item.__name__: item for item in found if item is not RegistryError}


def sample(error: type[RegistryError], value: Any = "x", **more: Any) -> RegistryError:
    inherited = {field.name for field in dataclasses.fields(RegistryError)}
    own = {field.name for field in dataclasses.fields(error)} - inherited
    return error(**dict.fromkeys(own, value), **more)


def unpack(status: status_pb2.Status, message_type: type[Any]) -> Any:
    found = message_type()
    assert any(detail.Unpack(found) for detail in status.details)
    return found


def test_the_errors_are_those_of_the_table() -> None:
    assert {
        name: (code_pb2.Code.Name(error.code), error.http_status, tuple(sample(error).parameters))
        for name, error in every_error().items()
    } == TABLE


@pytest.mark.parametrize("name", TABLE)
def test_every_error_has_its_status(name: str) -> None:
    error = sample(every_error()[name])
    status = to_status(error, "request-1")
    info = unpack(status, error_details_pb2.ErrorInfo)
    assert grpc.StatusCode[code_pb2.Code.Name(status.code)].name == TABLE[name][0]
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+[A-Z0-9]", info.reason)
    assert info.reason.replace("_", "").lower() == name.lower()
    assert info.domain == "modelregistry"
    assert dict(info.metadata) == {
        **error.parameters,
        "errorName": name,
        "errorInstanceId": error.instance_id,
    }
    assert unpack(status, error_details_pb2.RequestInfo).request_id == "request-1"
    assert status.message.startswith(f"{name}: {error.description}")


@pytest.mark.parametrize("name", TABLE)
def test_only_errors_that_a_retry_can_help_say_when(name: str) -> None:
    status = to_status(sample(every_error()[name]), "r")
    retry = error_details_pb2.RetryInfo()
    says_when = any(detail.Unpack(retry) for detail in status.details)
    assert says_when == (name in RETRYABLE)
    assert not says_when or retry.retry_delay.ToTimedelta() > timedelta(0)


def test_each_error_has_an_instance_id_of_its_own() -> None:
    first, second = InvalidArgument(), InvalidArgument()
    assert first.instance_id != second.instance_id


def test_violations_are_listed_up_to_twenty_and_the_rest_is_counted() -> None:
    violations = tuple(FieldViolation(f"f[{number}]", "is wrong") for number in range(45))
    listed = unpack(to_status(InvalidArgument(violations=violations), "r"), error_details_pb2.BadRequest)
    assert [violation.field for violation in listed.field_violations[:20]] == [f"f[{n}]" for n in range(20)]
    assert [violation.description for violation in listed.field_violations[20:]] == ["and 25 more"]


def test_fewer_violations_are_listed_where_they_are_long_and_the_rest_is_counted() -> None:
    violations = tuple(FieldViolation("f" * 5000, "🚀" * 5000) for _ in range(30))
    status = to_status(InvalidArgument(violations=violations), "r")
    listed = unpack(status, error_details_pb2.BadRequest).field_violations
    assert status.ByteSize() < MAX_STATUS_BYTES
    assert 3 <= len(listed) < 20
    assert listed[-1].description == f"and {30 - (len(listed) - 1)} more"


def test_long_values_are_cut_at_whole_characters() -> None:
    status = to_status(InvalidDisplayName(display_name="🚀" * 10_000), "r")
    value = unpack(status, error_details_pb2.ErrorInfo).metadata["displayName"]
    assert value.rstrip("…").strip("🚀") == ""
    assert 200 < len(value.encode()) <= 300


@given(st.text(max_size=5000), st.lists(st.tuples(st.text(max_size=500), st.text(max_size=500)), max_size=30))
def test_a_status_always_fits_into_the_trailers(value: str, violations: list[tuple[str, str]]) -> None:
    printable = value.encode("utf-8", "replace").decode()
    for error in every_error().values():
        listed = tuple(FieldViolation(*(text.encode("utf-8", "replace").decode() for text in v)) for v in violations)
        assert to_status(sample(error, printable, violations=listed), "r" * 128).ByteSize() < MAX_STATUS_BYTES
