"""Times and periods as people write them."""

from __future__ import annotations

import re

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1.promotion_service_pb2 import ListPromotionsRequest
from server.cli.output import fail
from server.codec.json_form import from_json
from server.core.errors import InvalidArgument

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PERIOD = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)


def time_of(flag: str, text: str | None) -> Timestamp | None:
    """Return a time; a day is its beginning in UTC."""
    if text is None:
        return None
    value = f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text
    try:
        return from_json({"startTime": value}, ListPromotionsRequest).start_time
    except InvalidArgument:
        fail(f"{flag}: {text!r} is neither a time such as 2026-11-25T12:00:00Z nor a day such as 2026-11-25")


def duration_of(flag: str, text: str | None) -> Duration | None:
    """Return a period of days, hours, minutes and seconds."""
    if text is None:
        return None
    match = _PERIOD.fullmatch(text)
    if not text or match is None:
        fail(f"{flag}: {text!r} is no period such as 90m, 3600s or 1d12h")
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return Duration(seconds=((24 * days + hours) * 60 + minutes) * 60 + seconds)
