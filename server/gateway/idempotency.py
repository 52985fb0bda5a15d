"""The header `Idempotency-Key`: over HTTP, the field `request_id` of those requests that have one can stand there.

It is the header of draft-ietf-httpapi-idempotency-key-header, a UUID in quotes, which may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from server.core.errors import FieldViolation
from server.validation.rules import shown, uuid

HEADER = "Idempotency-Key"

_FIELD = "request_id"
_JSON_KEY = "requestId"
_QUOTED = re.compile(r'"([^"]*)"')


def takes_key(request: Descriptor) -> bool:
    """Whether requests of this kind can have an id; for others, the header means nothing."""
    return _FIELD in request.fields_by_name


def has_id(request: Message) -> bool:
    """Whether the request has an id, so that to send it again does nothing more."""
    return _FIELD in request.DESCRIPTOR.fields_by_name and request.HasField(_FIELD)


def put_key(sent: Sequence[str], values: dict[str, object]) -> Iterator[FieldViolation]:
    """Put the key of a request's headers among its JSON values, and yield what is wrong with it."""
    if not sent:
        return
    if len(sent) > 1:
        yield FieldViolation(HEADER, f"must be given once, not {len(sent)} times")
        return
    key, given = _bare(sent[0]), values.get(_JSON_KEY)
    if broken := [FieldViolation(HEADER, each.sentence) for each in uuid(key)]:
        yield from broken
    elif given is None:
        values[_JSON_KEY] = key
    elif isinstance(given, str) and given.lower() != key.lower():
        yield FieldViolation(HEADER, f"is {shown(key)}, but {_JSON_KEY} is {shown(given)}")


def _bare(sent: str) -> str:
    quoted = _QUOTED.fullmatch(sent)
    return quoted[1] if quoted else sent
