"""What each of many watchers is told of events that were read once, by an administrator."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, Role
from modelregistry.v1.event_pb2 import Event
from server.core.caller import Caller
from server.core.event_types import BY_NAME, FOR_OWNERS
from server.rules.events import hide, other_models
from server.storage.contract import EventFilter, Grantees, KeptEvent, Repository

# How old what is known of roles may be. A change of a role is heeded that much later.
MAX_AGE_SECONDS = 1.0


class EventSight:
    """Who sees which events, by the roles that each had at most MAX_AGE_SECONDS ago; for one thread."""

    def __init__(self, repository: Repository):
        self._repository = repository
        # By RID, with the time by the monotonic clock; None is a model that is not stored.
        self._known: dict[str, tuple[float, Grantees | None]] = {}

    def look_at(self, kept: Sequence[KeptEvent]) -> None:
        """Find out who sees what these events are about and name. What is asked after it is asked of these alone."""
        since = time.monotonic() - MAX_AGE_SECONDS
        self._known = {rid: known for rid, known in self._known.items() if known[0] > since}
        named = other_models(kept)
        for event in (one.event for one in kept):
            named.update(rid for rid in (event.model_rid, event.folder_rid) if rid)
        unknown = named - self._known.keys()
        if unknown:
            asked = time.monotonic()
            found = self._repository.read(lambda reader: reader.grantees(unknown))
            self._known |= {rid: (asked, found.get(rid)) for rid in unknown}

    def is_wanted(self, event: Event, wanted: EventFilter) -> bool:
        """Whether a filter lets an event through. Of a filter for watchers: it has neither an actor nor times."""
        if wanted.model_rid is not None and event.model_rid != wanted.model_rid:
            return False
        if wanted.branch is not None and not (event.HasField("branch") and event.branch == wanted.branch):
            return False
        if wanted.types is not None and BY_NAME[event.type] not in wanted.types:
            return False
        return wanted.folder_rid is None or wanted.folder_rid == self._folder_of(event)

    def told(self, caller: Caller, kept: KeptEvent) -> Event | None:
        """Return an event as a caller is told it; None if the caller may not see it."""
        if caller.is_admin:
            return kept.event
        event = kept.event
        role = self._role(caller, event.model_rid or event.folder_rid)
        if role is None or (BY_NAME[event.type] in FOR_OWNERS and role < ROLE_OWNER):
            return None
        told = Event()
        told.CopyFrom(event)
        hide(self, caller, [KeptEvent(kept.key, told, role == ROLE_OWNER)])
        return told

    def visible_models(self, model_rids: Collection[str], caller: Caller) -> set[str]:
        """Return those of the models that are stored and that the caller may see."""
        return {rid for rid in model_rids if self._role(caller, rid) is not None}

    def _role(self, caller: Caller, rid: str) -> Role.ValueType | None:
        grantees = self._grantees(rid)
        if grantees is None:
            return None
        return max((role for to in caller.principals if (role := grantees.roles.get(to)) is not None), default=None)

    def _folder_of(self, event: Event) -> str | None:
        if event.folder_rid:
            return event.folder_rid
        grantees = self._grantees(event.model_rid)
        return None if grantees is None else grantees.folder_rid

    def _grantees(self, rid: str) -> Grantees | None:
        return self._known[rid][1] if rid else None
