"""ModelService: models, their versions, and promotion."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import grpc

from modelregistry.v1 import model_service_pb2_grpc
from modelregistry.v1.model_pb2 import Branch, Model, ModelVersion
from modelregistry.v1.model_service_pb2 import (
    CreateModelRequest,
    CreateModelVersionRequest,
    DownloadModelFilesRequest,
    DownloadModelFilesResponse,
    GetBranchRequest,
    GetModelRequest,
    GetModelVersionRequest,
    ListBranchesRequest,
    ListBranchesResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListModelVersionsRequest,
    ListModelVersionsResponse,
    PromoteVersionRequest,
    UploadModelFilesRequest,
    UploadModelFilesResponse,
)
from server.core.branches import branch_of
from server.core.caller import Caller
from server.core.config import NO_QUOTA, FileQuota
from server.rpc.transfers import Transfers, watched
from server.rules.idempotency import is_repeatable
from server.rules.model_files import create_version, download_model_files, upload_model_files
from server.rules.models import create_model, get_model_version
from server.rules.promotion import promote_version
from server.rules.verdicts import Runner, run_inline, write_with_verdicts
from server.storage.blobs import FileStore
from server.storage.contract import Repository
from server.storage.paging import Paging


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Serves modelregistry.v1.ModelService; requests are validated, `caller` tells whose they are.

    What a promotion or a new version has to compare is compared by `compare`.
    """

    def __init__(
        self,
        repository: Repository,
        files: FileStore,
        caller: Callable[[], Caller],
        quota: FileQuota = NO_QUOTA,
        compare: Runner = run_inline,
    ):
        self._repository = repository
        self._files = files
        self._quota = quota
        self._caller = caller
        self._compare = compare
        self._transfers = Transfers()

    def CreateModel(self, request: CreateModelRequest, context: grpc.ServicerContext) -> Model:
        """Create a model with no versions."""
        caller = self._caller()
        return self._repository.write(lambda tx: create_model(tx, caller, request), repeatable=is_repeatable(request))

    def GetModel(self, request: GetModelRequest, context: grpc.ServicerContext) -> Model:
        """Return a model."""
        caller = self._caller()
        return self._repository.read(lambda reader: reader.get_model(request.model_rid, caller)).model

    def ListModels(self, request: ListModelsRequest, context: grpc.ServicerContext) -> ListModelsResponse:
        """Return a page of the models that the caller may see."""
        caller = self._caller()
        folder = request.parent_folder_rid if request.HasField("parent_folder_rid") else None
        paging = Paging(str, "ListModels", folder)
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: reader.list_models(caller, folder, wanted))
        return ListModelsResponse(models=page.items, next_page_token=paging.next_token(page))

    def CreateModelVersion(self, request: CreateModelVersionRequest, context: grpc.ServicerContext) -> ModelVersion:
        """Add a version as the new head of a branch."""
        return create_version(self._repository, self._files, self._caller(), request, self._quota, self._compare)

    def GetModelVersion(self, request: GetModelVersionRequest, context: grpc.ServicerContext) -> ModelVersion:
        """Return a version of a model."""
        caller = self._caller()
        return self._repository.read_recent(lambda reader: get_model_version(reader, caller, request))

    def GetBranch(self, request: GetBranchRequest, context: grpc.ServicerContext) -> Branch:
        """Return a branch with its head."""
        caller = self._caller()
        return self._repository.read_recent(
            lambda reader: reader.get_branch(request.model_rid, branch_of(request), caller)
        )

    def ListBranches(self, request: ListBranchesRequest, context: grpc.ServicerContext) -> ListBranchesResponse:
        """Return a page of a model's branches."""
        caller = self._caller()
        paging = Paging(str, "ListBranches", request.model_rid)
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: reader.list_branches(request.model_rid, caller, wanted))
        return ListBranchesResponse(branches=page.items, next_page_token=paging.next_token(page))

    def ListModelVersions(
        self, request: ListModelVersionsRequest, context: grpc.ServicerContext
    ) -> ListModelVersionsResponse:
        """Return a page of a branch's versions."""
        caller, branch = self._caller(), branch_of(request)
        paging = Paging(int, "ListModelVersions", request.model_rid, branch)
        wanted = paging.page_request(request.page_size, request.page_token)
        page = self._repository.read(lambda reader: reader.list_versions(request.model_rid, branch, caller, wanted))
        return ListModelVersionsResponse(model_versions=page.items, next_page_token=paging.next_token(page))

    def PromoteVersion(self, request: PromoteVersionRequest, context: grpc.ServicerContext) -> ModelVersion:
        """Copy a version into the target model as the new head of a branch."""
        caller = self._caller()
        return write_with_verdicts(
            self._repository,
            lambda tx: promote_version(tx, caller, request),
            self._compare,
            repeatable=is_repeatable(request),
            branch=(request.model_rid, branch_of(request)),
        )

    def UploadModelFiles(
        self, request_iterator: Iterator[UploadModelFilesRequest], context: grpc.ServicerContext
    ) -> UploadModelFilesResponse:
        """Take in model files for a version."""
        caller = self._caller()
        with watched(context) as client:
            parts, turn = client.sending(request_iterator), functools.partial(self._transfers.turn, caller)
            return upload_model_files(self._repository, self._files, caller, parts, turn, self._quota)

    def DownloadModelFiles(
        self, request: DownloadModelFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[DownloadModelFilesResponse]:
        """Return the model files of a version."""
        caller = self._caller()
        with watched(context) as client:
            turn = functools.partial(self._transfers.turn, caller)
            parts = download_model_files(self._repository, self._files, caller, request, turn)
            yield from client.taking(parts)
