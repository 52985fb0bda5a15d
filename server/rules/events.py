"""Events: which ones a caller asks for, and what of them the caller may see."""

from __future__ import annotations

from collections.abc import Sequence

from modelregistry.v1.event_service_pb2 import ListEventsRequest
from modelregistry.v1.list_order_pb2 import LIST_ORDER_OLDEST_FIRST
from modelregistry.v1.promotion_pb2 import Promotion
from modelregistry.v1.promotion_request_pb2 import PromotionRequest
from modelregistry.v1.promotion_service_pb2 import ListPromotionsRequest
from server.core.caller import Caller
from server.core.event_types import BY_NAME
from server.rules.policy_changes import asked_of
from server.rules.sources import hide_sources
from server.storage.contract import EventFilter, KeptEvent, Reader
from server.storage.paging import Page, PageRequest


def list_events(
    reader: Reader, caller: Caller, request: ListEventsRequest, settled: int, page: PageRequest
) -> Page[KeptEvent]:
    """Return a page of the events up to the settled one. Raises ModelNotFound, CursorUnknown and CursorExpired."""
    after = reader.event_key(request.after_cursor) if request.HasField("after_cursor") else 0
    listed = reader.list_events(
        caller, filter_of(request), range(after + 1, settled + 1), page, newest_first=not is_oldest_first(request)
    )
    hide(reader, caller, listed.items)
    return listed


def is_oldest_first(request: ListEventsRequest | ListPromotionsRequest) -> bool:
    """Whether a list is in the order in which it is safe to go on."""
    return request.order == LIST_ORDER_OLDEST_FIRST


def filter_of(request: ListEventsRequest) -> EventFilter:
    """Return which events a request wants."""
    return EventFilter(
        model_rid=request.model_rid if request.HasField("model_rid") else None,
        folder_rid=request.parent_folder_rid if request.HasField("parent_folder_rid") else None,
        branch=request.branch if request.HasField("branch") else None,
        types=frozenset(BY_NAME[name] for name in request.types) or None,
        actor=request.actor if request.HasField("actor") else None,
        since_ms=request.start_time.ToMilliseconds() if request.HasField("start_time") else None,
        until_ms=request.end_time.ToMilliseconds() if request.HasField("end_time") else None,
    )


def hide(reader: Reader, caller: Caller, kept: Sequence[KeptEvent]) -> None:
    """Take out of events what the caller may not see: sources in other models, and for others than owners the call."""
    if caller.is_admin:
        return
    for event in (one.event for one in kept if not one.is_owner):
        event.ClearField("request_id")
        event.ClearField("peer")
    subjects = [one.event.subject for one in kept]
    policies = [subject.branch_policy for subject in subjects if subject.HasField("branch_policy")]
    requests = [subject.promotion_request for subject in subjects if subject.HasField("promotion_request")]
    changes = [asked_of(request.policy_change) for request in requests if request.HasField("policy_change")]
    hide_sources(reader, caller, [*policies, *changes])
    promotions = [subject.promotion for subject in subjects if subject.HasField("promotion")]
    made_of: list[Promotion | PromotionRequest] = [*promotions, *requests]
    named = {each.source_model_rid for each in made_of if each.HasField("source_model_rid")}
    visible = reader.visible_models(named, caller) if named else set()
    for each in made_of:
        if each.source_model_rid not in visible:
            for name in _OF_SOURCE:
                if name in each.DESCRIPTOR.fields_by_name:
                    each.ClearField(name)  # type: ignore[arg-type]


# What tells of the source. Of a promotion, GetPromotion tells the counts.
_OF_SOURCE = ("source_model_rid", "source_model_version_rid", "content_digest", "error_count", "warning_count")
