"""The OpenAPI document of the HTTP interface; from the routes alone, so a new annotated RPC needs no code here."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from http import HTTPStatus

from google.protobuf.descriptor import Descriptor
from google.rpc import code_pb2

from server.core.errors import RegistryError
from server.gateway.errors import ERRORS, MAY_BE_RETRIED, MethodNotAllowed, RouteNotFound
from server.gateway.event_stream import MEDIA_TYPE
from server.gateway.idempotency import HEADER, takes_key
from server.gateway.routes import PREVIEW, Route, stream_of
from tools.openapi.comments import comment_on
from tools.openapi.schemas import RequestSchemas, Schema, Schemas

_DESCRIPTION = """\
A model registry whose main job is promotion: a model version is copied into another model as its newest version.

The same service speaks gRPC, and the descriptions here are those of its protos. Where they name fields as `model_rid`,
JSON has `modelRid`. In a request, a key whose value is null counts as absent."""

_ERROR: Schema = {
    "type": "object",
    "description": "The envelope of every failure.",
    "properties": {
        "errorCode": {
            "type": "string",
            "description": "The status code of gRPC.",
            "enum": sorted({code_pb2.Code.Name(error.code) for error in ERRORS.values()}),
        },
        "errorName": {"type": "string", "description": "What to switch on.", "enum": sorted(ERRORS)},
        "errorInstanceId": {
            "type": "string",
            "format": "uuid",
            "description": "Of this one failure; it is in the server's log too.",
        },
        "errorDescription": {"type": "string", "description": "A sentence for people."},
        "parameters": {
            "type": "object",
            "description": "The offending values by name, and the fields at fault, if fields are.",
            "properties": {
                "fieldViolations": {"type": "array", "items": {"$ref": "#/components/schemas/FieldViolation"}}
            },
            "additionalProperties": {"type": "string"},
        },
    },
    "required": ["errorCode", "errorName", "errorInstanceId", "errorDescription", "parameters"],
}
_FIELD_VIOLATION: Schema = {
    "type": "object",
    "description": "What is wrong with a field of a request.",
    "properties": {
        "field": {
            "type": "string",
            "description": "Its path, empty for the request as a whole.",
            "examples": ["modelApi.inputs[0].columns[3].name"],
        },
        "description": {"type": "string", "description": "The end of a sentence that begins with the field."},
    },
    "required": ["field", "description"],
}

_HEADERS: dict[str, Schema] = {
    "X-Request-Id": {
        "description": "The id of the request in the server's log: the client's own, if it sent one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "required": True,
        "schema": {"type": "string", "const": "Bearer"},
    },
    "Retry-After": {
        "description": "After how many seconds a retry can help; it does nothing twice.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "QoS-Retry-Hint": {
        "description": "The call may have been executed: see what came of it before it is repeated.",
        "schema": {"type": "string", "const": "do-not-retry"},
    },
}
_LAST_EVENT_ID: Schema = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Of a stream: the id of the last event or bookmark, in place of `afterCursor`.",
    "required": False,
    "schema": {"type": "string"},
}
_IDEMPOTENCY_KEY: dict[str, object] = {
    "name": HEADER,
    "in": "header",
    "description": (
        "The same as `requestId`, which it must equal where both are given. It may also be in double quotes."
    ),
    "required": False,
    # Not `oneOf` this and the quoted form: generators of clients then leave the header out.
    "schema": {"type": "string", "format": "uuid"},
}


def openapi_of(routes: Sequence[Route], version: str) -> dict[str, object]:
    """Return the OpenAPI 3.1 document that describes these routes of a release."""
    schemas: dict[str, Schema] = {"Error": _ERROR, "FieldViolation": _FIELD_VIOLATION}
    paths: dict[str, dict[str, object]] = defaultdict(dict)
    for operation_id, route in _operations(routes):
        paths[route.path][route.http_method.lower()] = _operation(operation_id, route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "modelregistry", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [
            {"name": service.name, **comment_on(service.full_name)}
            for service in dict.fromkeys(route.method.containing_service for route in routes)
        ],
        "paths": dict(paths),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "headers": _HEADERS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operations(routes: Sequence[Route]) -> Iterator[tuple[str, Route]]:
    """Yield the routes with ids: the name of the RPC, with a number where that is taken."""
    taken: dict[str, int] = defaultdict(int)
    for route in routes:
        name = route.method.name
        taken[name] += 1
        yield name if taken[name] == 1 else f"{name}{taken[name]}", route


def _operation(operation_id: str, route: Route, schemas: dict[str, Schema]) -> dict[str, object]:
    requests, answers = RequestSchemas(schemas), Schemas(schemas)
    words = re.findall(r"[A-Z]+[^A-Z]*", route.method.name) or [route.method.name]
    operation: dict[str, object] = {
        "operationId": operation_id,
        "tags": [route.method.containing_service.name],
        "summary": " ".join(words).capitalize(),
        **comment_on(route.method.full_name),
        "parameters": [*_parameters(route, requests)],
    }
    if route.has_body:
        name = f"{operation_id}Request"
        body = requests.object_of(route.method.input_type, without={*route.path_fields, PREVIEW})
        schemas[name] = body | comment_on(route.method.input_type.full_name)
        operation["requestBody"] = {"required": True, "content": _json({"$ref": f"#/components/schemas/{name}"})}
    success = _response("The answer.", ["X-Request-Id"], answers.of(route.method.output_type))
    if (stream := stream_of(route)) is not None:
        # OpenAPI 3.1 cannot say what is in the events of a stream.
        told: Schema = {"type": "string", **comment_on(stream.method.full_name)}
        success["content"] = _json(answers.of(route.method.output_type)) | {MEDIA_TYPE: {"schema": told}}
    operation["responses"] = {"200": success, **_failures(route, schemas)}
    return operation


def _parameters(route: Route, requests: RequestSchemas) -> Iterator[dict[str, object]]:
    message = route.method.input_type
    required = requests.required_keys(message)
    for field in message.fields:
        key = field.json_name
        described = {**comment_on(field.full_name), "schema": requests.value_of(field)}
        if key in route.path_fields:
            yield {"name": key, "in": "path", "required": True, **described}
        elif key in route.query_fields:
            yield {"name": key, "in": "query", "required": key in required, **described}
    if stream_of(route) is not None:
        yield _LAST_EVENT_ID
    if takes_key(message):
        yield _IDEMPOTENCY_KEY
    wanted: Schema = {"const": True} if route.is_in_preview else {}
    yield {
        "name": PREVIEW,
        "in": "query",
        "description": "Must be true: this operation is in preview." if route.is_in_preview else "Is ignored here.",
        "required": route.is_in_preview,
        "schema": {"type": "boolean", **wanted},
    }


def _failures(route: Route, schemas: dict[str, Schema]) -> dict[str, Schema]:
    by_status: dict[int, list[type[RegistryError]]] = defaultdict(list)
    for error in ERRORS.values():
        if _can_come(error, route):
            by_status[error.http_status].append(error)
    return {str(status): _failure(status, by_status[status], schemas) for status in sorted(by_status)}


def _can_come(error: type[RegistryError], route: Route) -> bool:
    """Whether a route can fail so, as far as the route itself tells."""
    if error in {RouteNotFound, MethodNotAllowed}:  # which are of no route
        return False
    match error.http_status:
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE | HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            return route.has_body
        case HTTPStatus.NOT_FOUND:
            is_asked_for = bool(route.path_fields) or not route.changes_something
            return is_asked_for or _names_a_model(route.method.input_type)
        case HTTPStatus.CONFLICT:
            return route.changes_something
        case _:
            return True


def _names_a_model(request: Descriptor) -> bool:
    """Whether a change without a path names a model, which can be missing, or something in it does."""
    found = {request.full_name: request}
    for part in (waiting := [request]):
        for inner in (field.message_type for field in part.fields if field.message_type):
            if inner.full_name not in found:
                found[inner.full_name] = inner
                waiting.append(inner)
    return any(not {"model_rid", "resource_rid"}.isdisjoint(part.fields_by_name) for part in found.values())


def _failure(status: int, errors: Sequence[type[RegistryError]], schemas: dict[str, Schema]) -> Schema:
    headers = ["X-Request-Id"]
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append("WWW-Authenticate")
    if status in MAY_BE_RETRIED:
        headers += ["Retry-After", "QoS-Retry-Hint"]
    # A component of its own: beside a reference, generators of clients leave out what else is said.
    name = f"Error{status}"
    names: Schema = {"errorName": {"type": "string", "enum": [error.__name__ for error in errors]}}
    schemas[name] = {
        "allOf": [{"$ref": "#/components/schemas/Error"}, {"type": "object", "properties": names}],
        "description": f"The envelope of a failure with status {status}.",
    }
    description = "\n".join(f"- `{error.__name__}`: {error.description}" for error in errors)
    return _response(description, headers, {"$ref": f"#/components/schemas/{name}"})


def _response(description: str, headers: Sequence[str], schema: Schema) -> Schema:
    references = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return {"description": description, "headers": references, "content": _json(schema)}


def _json(schema: Schema) -> dict[str, object]:
    return {"application/json": {"schema": schema}}
