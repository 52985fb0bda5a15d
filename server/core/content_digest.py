"""The digest that addresses the content of a version."""

from __future__ import annotations

import hashlib


def content_digest(payload: bytes, file_digest: bytes | None) -> bytes:
    """Return the SHA-256 of a content: of its bytes as they are stored, and the digest of its model files."""
    # No message begins with a zero byte, so nothing without files has the digest of something with files.
    addressed = payload if file_digest is None else b"\0" + file_digest + payload
    return hashlib.sha256(addressed).digest()
