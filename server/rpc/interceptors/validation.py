"""From bytes to a request that a handler can trust."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from server.auth.access import is_open
from server.errors import ApiFeaturePreviewUsageOnly, FieldViolation, InvalidArgument
from server.validation import validate


def parser(method: str, deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return what makes a valid request of a method's bytes.

    It raises InvalidArgument for bytes that are no such message, ApiFeaturePreviewUsageOnly, and what
    `server.validation.validate` raises, in this order.
    """

    takes_preview = "preview" in deserialize(b"").DESCRIPTOR.fields_by_name

    def parse(request_bytes: bytes) -> Any:
        try:
            return deserialize(request_bytes)
        except DecodeError:
            raise InvalidArgument(violations=(FieldViolation("", "the bytes are not a message of this RPC"),)) from None

    def parse_and_validate(request_bytes: bytes) -> Any:
        request = parse(request_bytes)
        # What this server does not know must not come back in an answer and then be missing from the stored version.
        request.DiscardUnknownFields()
        if takes_preview and not request.preview:
            raise ApiFeaturePreviewUsageOnly
        validate(request)
        return request

    return parse if is_open(method) else parse_and_validate
