"""What is sent: an event as a CloudEvent in structured JSON, and the headers of Standard Webhooks that sign it.

Of both there are packages; each would be for a few lines that it makes of its own types again. The tests read what is
made here with them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable

from modelregistry.v1.event_pb2 import Event
from server.codec.json_form import to_json

CONTENT_TYPE = "application/cloudevents+json"


def body_of(event: Event, registry_id: str) -> bytes:
    """Return an event of a registry as a CloudEvent: `data` is its JSON form, `subject` the RID that it is about."""
    data = to_json(event)
    envelope = {
        "specversion": "1.0",
        "id": event.id,
        "source": f"urn:modelregistry:{registry_id}",
        "type": event.type,
        "time": data["time"],
        "datacontenttype": "application/json",
        "data": data,
    }
    subject = event.model_rid or event.folder_rid
    if subject:
        envelope["subject"] = subject
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()


def signed_headers(webhook_id: str, timestamp: int, body: bytes, keys: Iterable[bytes]) -> dict[str, str]:
    """Return the headers of a webhook that is sent now, in s since the epoch, signed with each of the keys."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
