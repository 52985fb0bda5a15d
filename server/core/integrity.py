"""What shows that something was altered: the digest of a content, and the chain of a branch's promotions.

The hash of each promotion covers its record, and the hash of the one before. docs/operations.md says how an auditor
computes it in any language, and what it proves.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

# What the first promotion of a branch has in place of the hash of one before.
BEGINNING = bytes(32)

_canonical = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class ChainedRecord(NamedTuple):
    """What the hash of a promotion covers, in this order: the digest in hexadecimal, the time in ms since the epoch.

    What it was decided under is at the end, and is left out where there is none of it.
    """

    rid: str
    kind: int
    version_rid: str
    model_rid: str
    branch: str
    version_number: int
    source_model_rid: str
    source_rid: str
    content_digest: str
    reason: str | None
    created_ms: int
    created_by: str
    policy_revision: int | None = None
    folder_policy_revision: int | None = None
    promotion_request_rid: str | None = None
    override: bool | None = None


# What stands in the hash of each promotion.
_ALWAYS = len(ChainedRecord._fields) - len(ChainedRecord._field_defaults)


def content_digest(payload: bytes, file_digest: bytes | None) -> bytes:
    """Return the SHA-256 of a content: of its bytes as they are stored, and the digest of its model files."""
    # No message begins with a zero byte, so nothing without files has the digest of something with files.
    addressed = payload if file_digest is None else b"\0" + file_digest + payload
    return hashlib.sha256(addressed).digest()


def chain_hash(previous: bytes, record: ChainedRecord) -> bytes:
    """Return the hash of a promotion that comes behind the one with this hash.

    It is the SHA-256 of the previous hash and the JSON of the record as RFC 8785 writes it.
    """
    covered = record if any(record[_ALWAYS:]) else record[:_ALWAYS]
    return hashlib.sha256(previous + _canonical(covered).encode()).digest()
