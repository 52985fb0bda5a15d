"""What an HTTP client sees of a failure: the contract's envelope, whether the server or the gateway found it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from google.rpc import code_pb2, error_details_pb2, status_pb2

from server.codec.json_form import json_path
from server.core.errors import HTTP_STATUS, Internal, RegistryError
from server.gateway.routes import Route
from server.rpc.status import message_of, to_status

log = logging.getLogger("modelregistry.http")

# The public SDK sends a POST again after a 429 or 503 that does not say so.
DO_NOT_RETRY = {"QoS-Retry-Hint": "do-not-retry"}
MAY_BE_RETRIED = {429, 503}


class RouteNotFound(RegistryError):
    """Nothing is served at this path."""

    code = code_pb2.NOT_FOUND
    description = "There is no such route."
    path: str


class MethodNotAllowed(RegistryError):
    """The path is served, but not for this HTTP method."""

    code = code_pb2.INVALID_ARGUMENT
    http_status = 405
    description = "The route does not take this HTTP method."
    method: str
    allowed: str


class UnsupportedMediaType(RegistryError):
    """The body is something else than JSON in UTF-8, as it is."""

    code = code_pb2.INVALID_ARGUMENT
    http_status = 415
    description = "The body must be JSON in UTF-8, without a content encoding: send Content-Type: application/json."
    content_type: str
    content_encoding: str


class MalformedHttpRequest(RegistryError):
    """Bytes that are no HTTP request."""

    code = code_pb2.INVALID_ARGUMENT
    description = "The bytes are not an HTTP request."


class RequestHeadersTooLarge(RegistryError):
    """More of a request line and headers than a request of this service can need."""

    code = code_pb2.INVALID_ARGUMENT
    http_status = 431
    description = "The request line and headers are too large."


class DeadlineExceeded(RegistryError):
    """The time that the client gave, or the gateway's own, was up; the call may have been executed."""

    code = code_pb2.DEADLINE_EXCEEDED
    description = "The call was not answered in time; it may have been executed."


class ServiceUnavailable(RegistryError):
    """A stream ended without a reason, or its server went away."""

    code = code_pb2.UNAVAILABLE
    description = "The service stopped before it answered; the call may have been executed."


class Cancelled(RegistryError):
    """The call was cancelled, as the last ones are when the server stops; it may have been executed."""

    code = code_pb2.CANCELLED
    http_status = 503
    description = "The call was cancelled before it was answered; it may have been executed."


class Failure(NamedTuple):
    """A failure as HTTP answers it."""

    http_status: int
    headers: Mapping[str, str]
    body: dict[str, object]


def failure(status: status_pb2.Status, route: Route | None, *, is_repeatable: bool) -> Failure:
    """Return what HTTP says of a status with ErrorInfo.

    `route` is that of the message in which the server found the violations, whose paths are then told as those of the
    JSON; None where they are so already. What is repeatable does no more when it is done twice.
    """
    details = {type(detail): detail for detail in map(_unpacked, status.details)}
    info = details[error_details_pb2.ErrorInfo]
    parameters: dict[str, object] = dict(info.metadata)
    name, instance_id = parameters.pop("errorName"), parameters.pop("errorInstanceId")
    if (bad_request := details.get(error_details_pb2.BadRequest)) is not None:
        parameters["fieldViolations"] = violations = []
        for each in bad_request.field_violations:
            path = _path(route, each.field)
            violations.append({"field": path, "description": each.description})
            if "message" in parameters:  # a sentence that names the field
                parameters["message"] = str(parameters["message"]).replace(each.field, path)
    kind = ERRORS.get(str(name))
    http_status = kind.http_status if kind else HTTP_STATUS.get(status.code, 500)
    retry = details.get(error_details_pb2.RetryInfo)
    headers = {"WWW-Authenticate": "Bearer"} if http_status == 401 else {}
    if retry is not None:
        headers["Retry-After"] = str(max(1, retry.retry_delay.seconds))
    elif not is_repeatable and http_status in MAY_BE_RETRIED:
        headers |= DO_NOT_RETRY  # Only what says when to retry has certainly not been executed.
    body: dict[str, object] = {
        "errorCode": code_pb2.Code.Name(status.code),
        "errorName": name,
        "errorInstanceId": instance_id,
        "errorDescription": kind.description if kind else status.message,
        "parameters": parameters,
    }
    return Failure(http_status, headers, body)


def refusal(request_id: str, raised: Exception, what: str, *, is_repeatable: bool) -> Failure:
    """Return what HTTP says of an error that the gateway found, and log it, since no server did.

    What is no RegistryError is a defect, of which the log alone is told more.
    """
    error, defect = (raised, None) if isinstance(raised, RegistryError) else (Internal(), raised)
    fields = {
        "method": what,
        "request_id": request_id,
        "error_instance_id": error.instance_id,
        "error": message_of(error),
    }
    log.log(logging.ERROR if defect else logging.INFO, "refused", exc_info=defect, extra={"fields": fields})
    return failure(to_status(error, request_id), None, is_repeatable=is_repeatable)


def _path(route: Route | None, path: str) -> str:
    """Return where a violation is: in the JSON, if it is in the request; findings are in a Model API, and name it."""
    if route is None or re.split(r"\W", path, maxsplit=1)[0] not in route.method.input_type.fields_by_name:
        return path
    return json_path(route.method.input_type, path)


def _unpacked(detail: Any) -> Any:
    for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
        if detail.Is(kind.DESCRIPTOR):
            return kind.FromString(detail.value)
    return detail


# Every failure by its name: the server's, and those of HTTP alone.
ERRORS = {kind.__name__: kind for kind in RegistryError.__subclasses__()}
