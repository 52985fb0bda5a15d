"""What storage hands out beside messages, and all of its contract speaks of."""

from __future__ import annotations

from typing import NamedTuple

from modelregistry.v1.model_pb2 import ModelVersion


class StoredVersion(NamedTuple):
    """A version as it is stored.

    `content_digest` is the SHA-256 under which its immutable content is shared. `legacy_source` is the source as JSON
    text where ModelVersionSource cannot express it; the version's `source` is unset then.
    """

    version: ModelVersion
    content_digest: bytes
    legacy_source: str | None
