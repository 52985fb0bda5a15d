"""Events: which ones a caller asks for, and what of them the caller may see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelregistry.v1.event_service_pb2 import ListEventsRequest, WatchEventsRequest
from modelregistry.v1.list_order_pb2 import LIST_ORDER_OLDEST_FIRST
from modelregistry.v1.promotion_pb2 import BranchPolicy, Promotion
from modelregistry.v1.promotion_request_pb2 import PromotionRequest
from modelregistry.v1.promotion_service_pb2 import ListPromotionsRequest
from server.core.caller import Caller
from server.core.event_types import BY_NAME
from server.rules.policy_changes import SetPolicy, asked_of
from server.rules.sources import SeesModels, hide_sources, models_of_sources
from server.storage.contract import EventFilter, KeptEvent, LogEnd, Reader
from server.storage.paging import Page, PageRequest


def list_events(
    reader: Reader, caller: Caller, request: ListEventsRequest, settled: LogEnd, page: PageRequest
) -> Page[KeptEvent]:
    """Return a page of the events up to the settled one.

    Raises ModelNotFound, CursorUnknown, CursorExpired, and StorageUnavailable if the settled one is not there.
    """
    after = reader.event_key(request.after_cursor) if request.HasField("after_cursor") else 0
    reader.require_event(settled)
    listed = reader.list_events(
        caller, filter_of(request), range(after + 1, settled.key + 1), page, newest_first=not is_oldest_first(request)
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


def listing_of(request: WatchEventsRequest) -> ListEventsRequest:
    """Return the request that lists what a stream tells, in its order."""
    listing = ListEventsRequest(order=LIST_ORDER_OLDEST_FIRST)
    # The fields of the one are those of the other by name and number.
    listing.MergeFromString(request.SerializeToString())
    return listing


def hide(reader: SeesModels, caller: Caller, kept: Sequence[KeptEvent]) -> None:
    """Take out of events what the caller may not see: sources in other models, and for others than owners the call."""
    if caller.is_admin:
        return
    for event in (one.event for one in kept if not one.is_owner):
        event.ClearField("request_id")
        event.ClearField("peer")
    policies, made_of = _naming_models(kept)
    hide_sources(reader, caller, policies)
    named = _sources_of(made_of)
    visible = reader.visible_models(named, caller) if named else set()
    for each in made_of:
        if each.source_model_rid not in visible:
            for name in _OF_SOURCE:
                if name in each.DESCRIPTOR.fields_by_name:
                    each.ClearField(name)  # type: ignore[arg-type]


def other_models(kept: Sequence[KeptEvent]) -> set[str]:
    """Return the RIDs of the models that are named in the subjects of events, and can be others than they are about."""
    policies, made_of = _naming_models(kept)
    return models_of_sources(policies) | _sources_of(made_of)


def _naming_models(
    kept: Sequence[KeptEvent],
) -> tuple[list[BranchPolicy | SetPolicy], list[Promotion | PromotionRequest]]:
    """Return what names models as sources: policies, with those that are asked for, and what is made of a version."""
    subjects = [one.event.subject for one in kept]
    policies = [subject.branch_policy for subject in subjects if subject.HasField("branch_policy")]
    requests = [subject.promotion_request for subject in subjects if subject.HasField("promotion_request")]
    changes = [asked_of(request.policy_change) for request in requests if request.HasField("policy_change")]
    promotions = [subject.promotion for subject in subjects if subject.HasField("promotion")]
    return [*policies, *changes], [*promotions, *requests]


def _sources_of(made_of: Iterable[Promotion | PromotionRequest]) -> set[str]:
    return {each.source_model_rid for each in made_of if each.HasField("source_model_rid")}


# What tells of the source. Of a promotion, GetPromotion tells the counts.
_OF_SOURCE = ("source_model_rid", "source_model_version_rid", "content_digest", "error_count", "warning_count")
