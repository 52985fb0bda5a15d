"""EventService: what happened, listed and told."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from modelregistry.v1 import event_service_pb2_grpc
from modelregistry.v1.event_service_pb2 import ListEventsRequest, ListEventsResponse, WatchEventsRequest
from server.core.caller import Caller
from server.rpc.event_watch import EventWatch
from server.rpc.held_streams import HeldStream
from server.rules.events import filter_of, is_oldest_first, list_events
from server.storage.contract import Reader, Repository
from server.storage.paging import Paging


class EventService(event_service_pb2_grpc.EventServiceServicer):
    """Serves modelregistry.v1.EventService; requests are validated, `caller` tells whose they are."""

    def __init__(self, repository: Repository, caller: Callable[[], Caller], watch: EventWatch):
        self._repository = repository
        self._caller = caller
        self._watch = watch

    def ListEvents(self, request: ListEventsRequest, context: grpc.ServicerContext) -> ListEventsResponse:
        """Return a page of events."""
        caller, paging = self._caller(), paging_of(request)
        page = paging.page_request(request.page_size, request.page_token)
        settled = self._repository.settled_event()

        def query(reader: Reader) -> ListEventsResponse:
            listed = list_events(reader, caller, request, settled, page)
            answer = ListEventsResponse(
                events=(kept.event for kept in listed.items), next_page_token=paging.next_token(listed)
            )
            if is_oldest_first(request) and listed.next_position is not None and listed.items:
                answer.cursor = listed.items[-1].event.cursor
            elif is_oldest_first(request) or page.after is None:
                answer.cursor = reader.event_cursor(settled.key)
            return answer

        return self._repository.read(query)

    def WatchEvents(self, request: WatchEventsRequest, context: grpc.ServicerContext, stream: HeldStream) -> None:  # type: ignore[override]
        """Tell events as they happen; returns at once."""
        self._watch.watch(stream, request)

    # See HeldStream.
    WatchEvents.experimental_non_blocking = True  # type: ignore[attr-defined]


def paging_of(request: ListEventsRequest) -> Paging:
    """Return the pages of a request, whatever page it is for."""
    query_of = (*filter_of(request)._replace(types=None), *request.types, request.after_cursor, request.order)
    return Paging(str, "ListEvents", *query_of)  # type: ignore[arg-type] # the types are not there
