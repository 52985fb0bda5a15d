"""The records of promotions: who promoted what, when and why."""

from __future__ import annotations

from modelregistry.v1.promotion_pb2 import Promotion
from modelregistry.v1.promotion_service_pb2 import GetPromotionRequest, ListPromotionsRequest
from server.core.caller import Caller
from server.core.errors import PromotionNotFound
from server.storage.contract import LogEnd, PromotionFilter, Reader
from server.storage.paging import Page, PageRequest


def get_promotion(reader: Reader, caller: Caller, request: GetPromotionRequest) -> Promotion:
    """Return a promotion. Raises PromotionNotFound."""
    promotion = reader.find_promotion(request.promotion_rid, caller)
    if promotion is None:
        raise PromotionNotFound(promotion_rid=request.promotion_rid)
    return promotion


def list_promotions(
    reader: Reader, caller: Caller, wanted: PromotionFilter, page: PageRequest, settled: LogEnd | None = None
) -> Page[Promotion]:
    """Return a page of promotions: the newest first or, up to the `settled` one, the oldest.

    Raises ModelNotFound if only those into an absent or invisible model are wanted, InvalidPageToken, and
    StorageUnavailable if the settled one is not there.
    """
    if wanted.model_rid is not None:
        reader.get_model(wanted.model_rid, caller)
    if settled is not None:
        return reader.list_promotions_in_order(caller, wanted, settled, page)
    return reader.list_promotions(caller, wanted, page)


def filter_of(request: ListPromotionsRequest) -> PromotionFilter:
    """Return which promotions a request wants."""
    return PromotionFilter(
        model_rid=request.model_rid if request.HasField("model_rid") else None,
        branch=request.branch if request.HasField("branch") else None,
        source_rid=request.source_model_version_rid if request.HasField("source_model_version_rid") else None,
        version_rid=request.model_version_rid if request.HasField("model_version_rid") else None,
        created_by=request.created_by if request.HasField("created_by") else None,
        since_ms=request.start_time.ToMilliseconds() if request.HasField("start_time") else None,
        until_ms=request.end_time.ToMilliseconds() if request.HasField("end_time") else None,
    )
