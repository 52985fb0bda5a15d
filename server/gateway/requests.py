"""From an HTTP request to the message that it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from server.codec.json_form import from_json, loads, whole_number
from server.core.errors import FieldViolation, InvalidArgument
from server.gateway.idempotency import put_key
from server.gateway.routes import PREVIEW, Route

MAX_PARAMETERS = 100

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


def request_of(
    route: Route, path_values: Mapping[str, str], query: str, body: bytes, keys: Sequence[str] = ()
) -> Message:
    """Return the message of a request, whose path values are still percent-encoded; `keys` are its idempotency keys.

    What the fields may hold is for the server to say. Raises InvalidArgument, with the paths of the JSON, for what no
    such message can hold.
    """
    values: dict[str, Any] = {}
    violations: list[FieldViolation] = []
    if route.has_body:
        sent = loads(body)
        if not isinstance(sent, dict):
            raise InvalidArgument(violations=(FieldViolation("", "the body must be an object"),))
        bound_elsewhere = route.path_fields | {PREVIEW}
        violations += [FieldViolation(key, "is not a known key") for key in sent if key in bound_elsewhere]
        values |= {key: value for key, value in sent.items() if key not in bound_elsewhere}
    for key, text in path_values.items():
        try:
            values[key] = unquote_to_bytes(text).decode()
        except UnicodeDecodeError:
            violations.append(FieldViolation(key, "is not valid UTF-8"))
    for key, value in _parameters(query, violations, route):
        if key == PREVIEW and route.is_in_preview:
            values[key] = value == "true"
        elif key in route.query_fields:
            field = route.query_fields[key]
            values[key] = [*values.get(key, []), _value(field, value)] if field.is_repeated else _value(field, value)
        elif key != PREVIEW:
            violations.append(FieldViolation(key, "is not a known query parameter"))
    violations += put_key(keys, values)
    try:
        message = from_json(values, route.request_type)
    except InvalidArgument as error:
        violations += error.violations
    if violations:
        raise InvalidArgument(violations=tuple(violations))
    return message


def wants_preview(query: str) -> bool:
    """Whether the query says that a preview is wanted."""
    return dict(_parameters(query, [])).get(PREVIEW) == "true"


def _parameters(query: str, violations: list[FieldViolation], route: Route | None = None) -> Iterator[tuple[str, str]]:
    """Yield the parameters of a query: each once, but for those of which a route takes several."""
    try:
        parameters = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except UnicodeDecodeError:
        violations.append(FieldViolation("", "the query is not valid UTF-8"))
        return
    except ValueError:
        violations.append(FieldViolation("", f"the query has more than {MAX_PARAMETERS} parameters"))
        return
    seen = set()
    for key, value in parameters:
        is_repeated = route is not None and key in route.query_fields and route.query_fields[key].is_repeated
        if key in seen and not is_repeated:
            violations.append(FieldViolation(key, "occurs twice in the query"))
        else:
            seen.add(key)
            yield key, value


def _value(field: FieldDescriptor, text: str) -> object:
    """Return the JSON value that a parameter's text stands for; the text itself where it stands for none."""
    if field.type == FieldDescriptor.TYPE_INT32 and _NUMBER.fullmatch(text):
        whole = whole_number(text)
        return text if whole is None else whole
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _BOOLEANS.get(text, text)
    return text
