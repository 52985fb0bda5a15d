"""RecallService: versions stopped, found where they are live, and replaced."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from modelregistry.v1 import recall_service_pb2_grpc
from modelregistry.v1.recall_service_pb2 import (
    BatchRollbackRequest,
    BatchRollbackResponse,
    ListLiveCopiesRequest,
    ListLiveCopiesResponse,
    ListYanksRequest,
    ListYanksResponse,
    UnyankVersionRequest,
    Yank,
    YankVersionRequest,
)
from server.core.caller import Caller
from server.rules.idempotency import is_repeatable
from server.rules.promotion import batch_rollback
from server.rules.recalls import unyank_version, yank_version
from server.rules.verdicts import Runner, run_inline, write_with_verdicts
from server.storage.contract import Repository
from server.storage.paging import Paging


class RecallService(recall_service_pb2_grpc.RecallServiceServicer):
    """Serves modelregistry.v1.RecallService; requests are validated, `caller` tells whose they are.

    What rollbacks have to compare is compared by `compare`.
    """

    def __init__(self, repository: Repository, caller: Callable[[], Caller], compare: Runner = run_inline):
        self._repository = repository
        self._caller = caller
        self._compare = compare

    def YankVersion(self, request: YankVersionRequest, context: grpc.ServicerContext) -> Yank:
        """Let a version, or its lineage, be promoted no more."""
        caller = self._caller()
        return self._repository.write(
            lambda tx: yank_version(tx, caller, request),
            repeatable=is_repeatable(request),
            may_use_reserve=True,
            settles=True,
        )

    def UnyankVersion(self, request: UnyankVersionRequest, context: grpc.ServicerContext) -> Yank:
        """Take one yank back."""
        caller = self._caller()
        return self._repository.write(lambda tx: unyank_version(tx, caller, request))

    def ListYanks(self, request: ListYanksRequest, context: grpc.ServicerContext) -> ListYanksResponse:
        """Return a page of the yanks in a version's lineage."""
        caller = self._caller()
        paging = Paging(str, "ListYanks", request.model_version_rid)
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: reader.list_yanks(request.model_version_rid, caller, wanted))
        return ListYanksResponse(yanks=page.items, next_page_token=paging.next_token(page))

    def ListLiveCopies(self, request: ListLiveCopiesRequest, context: grpc.ServicerContext) -> ListLiveCopiesResponse:
        """Return a page of the branches where a version is live."""
        caller = self._caller()
        paging = Paging(str, "ListLiveCopies", request.model_version_rid)
        wanted = paging.page_request(request.page_size, request.page_token)
        found = self._repository.read(lambda reader: reader.list_live_copies(request.model_version_rid, caller, wanted))
        return ListLiveCopiesResponse(
            live_copies=found.page.items,
            # What is left on the first page is all there is.
            total_count=found.remaining if caller.is_admin and not request.page_token else None,
            next_page_token=paging.next_token(found.page),
        )

    def BatchRollback(self, request: BatchRollbackRequest, context: grpc.ServicerContext) -> BatchRollbackResponse:
        """Roll many branches back, or none."""
        caller = self._caller()
        return write_with_verdicts(
            self._repository,
            lambda tx: batch_rollback(tx, caller, request),
            self._compare,
            repeatable=is_repeatable(request),
            may_use_reserve=True,
        )
