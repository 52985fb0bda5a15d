"""What the questions and changes of one closure share."""

from __future__ import annotations

from collections.abc import Callable

from modelregistry.v1.promotion_pb2 import PromotionKind
from server.storage.contract import StoredVersion
from server.storage.sql.session import Session
from server.storage.sql.version_cache import VersionCache

# How much of a message is kept free for what is not content: a version's other fields, or the token of the next page.
ENVELOPE_BYTES = 8 * 2**10


class UnitOfWork:
    """A session, how many bytes of content fit into a message, the versions read before, and the clock in ms."""

    def __init__(
        self, session: Session, max_message_bytes: int, versions: VersionCache, clock_ms: Callable[[], int]
    ) -> None:
        self.session = session
        self.fitting_bytes = max_message_bytes - ENVELOPE_BYTES
        self.versions = versions
        self.clock_ms = clock_ms
        # The branches that it has extended, by the RID of their model and their name. They are locked until its end.
        self.extended: set[tuple[str, str]] = set()
        # Whether it has marked its transaction as one that decides: see `decisions`.
        self.is_marked = False
        # What it read of versions, and the kind of each promotion that it recorded: both hold once it has committed.
        self.versions_read: list[StoredVersion] = []
        self.promoted: list[PromotionKind.ValueType] = []
        # When it recorded the last of them, in ms since the epoch.
        self.promoted_ms = 0
