"""What goes with each call: the token, and an id that makes it safe to repeat."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

# It changes nothing, and takes the request that PromoteVersion takes, with an id or without.
_CHECK = "CheckPromotion"

Metadata = Sequence[tuple[str, str | bytes]]
Request = TypeVar("Request")


def with_token(metadata: Iterable[tuple[str, str | bytes]] | None, token: str | None) -> Metadata:
    """Return the metadata of a call with the token, if there is one, unless it has one of its own.

    A token that was read from a file ends with the line.
    """
    given = tuple(metadata or ())
    if token is None or any(key == "authorization" for key, _ in given):
        return given
    return (*given, ("authorization", f"Bearer {token.strip()}"))


def with_request_id(method: str, request: Request) -> Request:
    """Return the request or, if it could have an id and has none, a copy with one.

    The service config repeats calls whose answers were lost, which without an id would be carried out twice.
    """
    if not isinstance(request, Message) or "request_id" not in request.DESCRIPTOR.fields_by_name:
        return request
    if request.HasField("request_id") or method.endswith(f"/{_CHECK}"):
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    setattr(copy, "request_id", str(uuid.uuid4()))  # noqa: B010 - which message it is, is not known here
    return copy
