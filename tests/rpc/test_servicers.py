"""The servicers by themselves: no interceptors, the caller injected. Failures leave them as they were raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc_testing
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.model_pb2 import Model
from server.auth.disabled import DisabledPrincipals
from server.auth.secrets_key import SecretsKey
from server.core import errors
from server.core.caller import Caller
from server.core.webhooks import WebhookRules
from server.rpc.event_watch import EventWatch
from server.rpc.services.access import AccessService
from server.rpc.services.events import EventService
from server.rpc.services.models import ModelService
from server.rpc.services.promotion_requests import PromotionRequestService
from server.rpc.services.promotions import PromotionService
from server.rpc.services.recalls import RecallService
from server.rpc.services.subscriptions import SubscriptionService
from server.storage.sql.repository import SqlRepository
from tests.builders import ADMIN, FOLDER, caller, file_store, model_api
from tests.rpc.harness import METHODS, SERVICES, request_of

JANE = caller("user:jane")


class Bench:
    """Calls servicers as grpc_testing's server does, as whoever is set."""

    def __init__(self, repository: SqlRepository, folder: Path) -> None:
        self.caller: Caller = ADMIN
        self._errors: list[Exception] = []
        servicers = (
            ModelService(repository, file_store(repository, folder), lambda: self.caller),
            PromotionService(repository, lambda: self.caller),
            RecallService(repository, lambda: self.caller),
            PromotionRequestService(repository, lambda: self.caller),
            EventService(repository, lambda: self.caller, EventWatch(repository, lambda _: None)),
            SubscriptionService(
                repository, lambda: self.caller, WebhookRules(), SecretsKey(folder / "secrets.key", may_create=True)
            ),
            AccessService(repository, lambda: self.caller, DisabledPrincipals()),
        )
        recording = dict(zip(SERVICES, (_Recording(servicer, self._errors) for servicer in servicers), strict=True))
        self._server = grpc_testing.server_from_dictionary(recording, grpc_testing.strict_real_time())

    def __call__(self, rpc: str, /, **fields: Any) -> Any:
        call = self._server.invoke_unary_unary(METHODS[rpc], (), request_of(rpc, **fields), 10)
        answer, _, _, _ = call.termination()
        if self._errors:
            raise self._errors.pop()
        return answer


class _Recording:
    """A servicer whose exceptions are kept: grpc_testing tells of none but that there was one."""

    def __init__(self, servicer: Any, raised: list[Exception]) -> None:
        self._servicer, self._raised = servicer, raised

    def __getattr__(self, rpc: str) -> Any:
        method = getattr(self._servicer, rpc)

        def call(request: Any, context: Any) -> Any:
            try:
                return method(request, context)
            except Exception as error:
                self._raised.append(error)
                raise

        return call


@pytest.fixture
def bench(repository: SqlRepository, tmp_path: Path) -> Bench:
    return Bench(repository, tmp_path)


@pytest.fixture
def model(bench: Bench) -> Model:
    return bench("CreateModel", name="m", parent_folder_rid=FOLDER)


def test_a_version_is_created_promoted_and_read(bench: Bench, model: Model) -> None:
    created = bench("CreateModelVersion", model_rid=model.rid, model_api=model_api())
    promoted = bench("PromoteVersion", model_rid=model.rid, source_model_version_rid=created.rid)
    assert bench("GetModelVersion", model_rid=model.rid, model_version_rid=promoted.rid) == promoted
    assert bench("GetBranch", model_rid=model.rid).head == promoted
    assert list(bench("ListModelVersions", model_rid=model.rid).model_versions) == [promoted, created]
    assert [branch.head for branch in bench("ListBranches", model_rid=model.rid).branches] == [promoted]
    assert bench("GetModel", model_rid=model.rid) == model
    assert list(bench("ListModels").models) == [model]


def test_grants_are_given_listed_and_taken(bench: Bench, model: Model) -> None:
    granted = bench("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
    assert granted in bench("ListGrants", resource_rid=model.rid).grants
    bench("RevokeRole", resource_rid=model.rid, principal="user:jane")
    assert granted not in bench("ListGrants", resource_rid=model.rid).grants


def test_the_injected_caller_is_the_one_that_counts(bench: Bench, model: Model) -> None:
    bench.caller = JANE
    with pytest.raises(errors.ModelNotFound):
        bench("GetModel", model_rid=model.rid)
    with pytest.raises(errors.CreateModelPermissionDenied):
        bench("CreateModel", name="n", parent_folder_rid=FOLDER)


def test_failures_are_raised_and_not_put_into_the_context(bench: Bench, model: Model) -> None:
    with pytest.raises(errors.ModelVersionNotFound) as caught:
        bench("PromoteVersion", model_rid=model.rid, source_model_version_rid="ri.models.main.model-version.x")
    assert caught.value.parameters == {"modelRid": model.rid, "modelVersionRid": "ri.models.main.model-version.x"}
    with pytest.raises(errors.BranchNotFound):
        bench("GetBranch", model_rid=model.rid)
    with pytest.raises(errors.InvalidPageToken):
        bench("ListModels", page_token="x")
