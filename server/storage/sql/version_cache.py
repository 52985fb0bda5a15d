"""Versions that were read before: they never change, so only whether a caller may see them is asked again."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from cachetools import LRUCache

from server.storage.contract import StoredVersion

DEFAULT_BYTES = 64 * 2**20
# What an entry takes beside its message: its keys, and the objects around them.
_OVERHEAD_BYTES = 1024
# A parsed message is larger than its bytes.
_PARSED_FACTOR = 4


class VersionCache:
    """The versions that were read last, by RID, as many as fit into so many bytes; safe to share between threads."""

    def __init__(self, max_bytes: int = DEFAULT_BYTES):
        self._versions: LRUCache[str, StoredVersion] = LRUCache(max_bytes, getsizeof=_size)
        self._lock = threading.Lock()

    def get(self, rid: str) -> StoredVersion | None:
        """Return a version; None if it was not read lately."""
        with self._lock:
            return self._versions.get(rid)

    def put(self, versions: Iterable[StoredVersion]) -> None:
        """Keep versions that are committed. One that is larger than all the room is not kept."""
        for version in versions:
            with self._lock:
                if _size(version) <= self._versions.maxsize:
                    self._versions[version.version.rid] = version


def _size(stored: StoredVersion) -> int:
    return _OVERHEAD_BYTES + _PARSED_FACTOR * stored.version.ByteSize()
