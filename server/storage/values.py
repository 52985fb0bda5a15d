"""What storage hands out beside messages, all of its contract speaks of, and what it lets others see."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from modelregistry.v1.model_pb2 import ModelVersion

# Takes the text of a statement that begins, and returns what takes the error that it ends with, if any; or None if
# nobody wants to know.
StatementWatch: TypeAlias = Callable[[str], Callable[[BaseException | None], None] | None]


class StoredVersion(NamedTuple):
    """A version as it is stored.

    `content_digest` is the SHA-256 under which its immutable content is shared. `legacy_source` is the source as JSON
    text where ModelVersionSource cannot express it; the version's `source` is unset then.
    """

    version: ModelVersion
    content_digest: bytes
    legacy_source: str | None
