"""What goes with each call: the token, and an id that makes it safe to repeat."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

# It changes nothing, and takes the request that PromoteVersion takes, with an id or without.
_CHECK = "CheckPromotion"

Metadata = Sequence[tuple[str, str | bytes]]
Request = TypeVar("Request")


class CallDetails(NamedTuple):
    """What gRPC's interceptors hand on of a call."""

    method: Any
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: Any


def with_token(metadata: Iterable[tuple[str, str | bytes]] | None, token: str) -> Metadata:
    """Return the metadata of a call with the token, unless it has one of its own."""
    given = tuple(metadata or ())
    if any(key == "authorization" for key, _ in given):
        return given
    return (*given, ("authorization", f"Bearer {token}"))


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
