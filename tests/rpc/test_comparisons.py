"""Comparisons of Model APIs: nothing is locked meanwhile, other calls are served, and they end with their call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from modelregistry.v1.access_service_pb2 import ROLE_PROMOTER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE
from modelregistry.v1.model_api_pb2 import ModelApi, ModelApiInput, ParameterType
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.promotion_pb2 import Promotion
from server.core.cancellation import current_call
from server.rules import verdicts
from server.validation.model_api import MAX_PARTS
from tests import builders
from tests.builders import model_api
from tests.conftest import OpenRepository
from tests.processes import until
from tests.rpc.harness import METHODS, THREADS, Registry, User, path_of, request_of, serving
from tests.storage.conftest import Held
from tests.storage.inspection import row_counts, waiting

DEADLINE_SECONDS = 180


class Comparisons:
    """All comparisons of the process: the pairs that were begun, and what is done at the beginning of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.pairs: list[tuple[ModelApi, ModelApi]] = []
        self.ended = 0
        self.at_first: Callable[[], object] = bool
        self.at_each: Callable[[], object] = bool
        self._compare = verdicts.compare
        monkeypatch.setattr(verdicts, "compare", self)

    def __call__(self, head: ModelApi, candidate: ModelApi) -> Any:
        self.pairs.append((head, candidate))
        if len(self.pairs) == 1:
            self.at_first()
        self.at_each()
        found = self._compare(head, candidate)
        self.ended += 1
        return found


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> Comparisons:
    return Comparisons(monkeypatch)


@pytest.fixture
def registry(migrated_url: str, open_repository: OpenRepository) -> Iterator[Registry]:
    """A server with a connection for each of its threads, as a real one has."""
    with serving(open_repository(migrated_url, pool_size=2 * THREADS)) as registry:
        yield registry


class Stages:
    """Three versions of staging with a Model API each; the first of them is the head of production."""

    def __init__(self, admin: User):
        self.staging, self.production = admin.create_model("staging"), admin.create_model("production")
        self.sources = [admin.create_version(self.staging, model_api=model_api(label)) for label in "abc"]
        self.live = admin.promote(self.sources[0], self.production)

    def promotion(self, source: ModelVersion, target: Model | None = None) -> dict[str, str]:
        return {"model_rid": (target or self.production).rid, "source_model_version_rid": source.rid}


@pytest.fixture
def stages(admin: User) -> Stages:
    return Stages(admin)


@pytest.fixture
def rival(admin: User, registry: Registry, stages: Stages) -> User:
    """Another caller, who may promote from staging into production, too."""
    for model in (stages.staging, stages.production):
        admin("GrantRole", resource_rid=model.rid, principal="user:rival", role=ROLE_PROMOTER)
    return registry.user("rival")


def begin(registry: Registry, user: User, rpc: str, timeout: float = DEADLINE_SECONDS, **fields: Any) -> Any:
    """Begin a call, and return what it will be answered."""
    answer = GetMessageClass(METHODS[rpc].output_type)
    call = registry.channel.unary_unary(path_of(rpc), response_deserializer=answer.FromString)
    return call.future(request_of(rpc, **fields).SerializeToString(), metadata=user.metadata, timeout=timeout)


def records(user: User, model: Model) -> list[Promotion]:
    """The promotions into a model, oldest first."""
    return list(reversed(user("ListPromotions", model_rid=model.rid).promotions))


def apis(*versions: ModelVersion) -> tuple[ModelApi, ...]:
    return tuple(version.model_api for version in versions)


def wide_api(label: str, count: int = 500) -> ModelApi:
    """A Model API of so many parameters: by default, enough for a comparison to see that its call is over."""
    kind = model_api().outputs[0].parameter.data_type
    return ModelApi(
        inputs=[
            ModelApiInput(parameter=ParameterType(name=f"{label} {number}", data_type=kind)) for number in range(count)
        ]
    )


# Outside every transaction


def test_no_connection_is_in_use_while_something_is_compared(
    admin: User, registry: Registry, stages: Stages, comparisons: Comparisons
) -> None:
    in_use = []
    comparisons.at_each = lambda: in_use.append(registry.repository.connections().in_use)
    first, second, third = stages.sources

    admin("CheckPromotion", **stages.promotion(second), preview=True)
    admin.promote(second, stages.production)
    admin("BatchPromoteVersions", promotions=[stages.promotion(third), stages.promotion(first)])
    admin("RollbackBranch", model_rid=stages.production.rid, to_version_number=2)

    assert in_use == [0] * len(in_use)
    # There is a verdict on the pair that the rollback compares.
    assert comparisons.pairs == [
        apis(first, second),
        apis(first, second),
        apis(second, third),
        apis(third, first),
    ]
    assert [bool(promotion.error_count) for promotion in records(admin, stages.production)] == [False] + [True] * 4


def test_a_head_that_changes_meanwhile_is_compared_in_its_place(
    admin: User, rival: User, stages: Stages, comparisons: Comparisons
) -> None:
    first, second, third = stages.sources
    comparisons.at_first = lambda: rival.promote(third, stages.production)

    promoted = admin.promote(second, stages.production)

    assert promoted.version_number == 3
    assert comparisons.pairs == [apis(first, second), apis(first, third), apis(third, second)]
    [_, of_third, of_second] = records(admin, stages.production)
    assert of_second.replaced_version_rid == of_third.model_version_rid
    assert of_second.error_count == 2


def test_a_head_that_was_expected_and_changes_meanwhile_is_told(
    admin: User, rival: User, stages: Stages, comparisons: Comparisons
) -> None:
    _, second, third = stages.sources
    comparisons.at_first = lambda: rival.promote(third, stages.production)

    expected = {"expected_head_version_rid": stages.live.rid, "preview": True}
    failure = admin.failure("PromoteVersion", **stages.promotion(second), **expected)

    assert failure.name == "BranchHeadChanged"


def test_a_batch_knows_all_that_it_has_to_compare(admin: User, stages: Stages, comparisons: Comparisons) -> None:
    first, second, third = stages.sources
    other = admin.create_model("other")
    admin.promote(first, other)
    entries = [(second, stages.production), (second, other), (third, stages.production), (first, stages.production)]

    answer = admin("BatchPromoteVersions", promotions=[stages.promotion(*entry) for entry in entries])

    assert [each.version_number for each in answer.promoted] == [2, 2, 3, 4]
    assert comparisons.pairs == [apis(first, second), apis(second, third), apis(third, first)]
    assert [promotion.error_count for promotion in records(admin, stages.production)] == [0, 2, 2, 2]
    assert [promotion.error_count for promotion in records(admin, other)] == [0, 2]


def test_in_a_batch_nothing_is_compared_when_another_head_was_expected(
    admin: User, stages: Stages, comparisons: Comparisons
) -> None:
    _, second, third = stages.sources
    admin("SetBranchPolicy", model_rid=stages.production.rid, compatibility=COMPATIBILITY_MODE_ENFORCE)
    late = stages.promotion(third, admin.create_model("other")) | {"expected_head_version_rid": second.rid}

    failure = admin.failure("BatchPromoteVersions", promotions=[stages.promotion(second), late])

    assert (failure.name, failure.violations[0][0]) == ("BranchHeadChanged", "promotions[1]")
    assert comparisons.pairs == []


def test_of_many_with_contents_of_their_own_each_is_promoted_and_compared(admin: User, stages: Stages) -> None:
    """Whichever order they come in: each has the findings on the head that it replaced."""
    sources = [admin.create_version(stages.staging, model_api=model_api(f"own {n}")) for n in range(12)]

    with ThreadPoolExecutor(len(sources)) as threads:
        promoted = list(threads.map(lambda source: admin.promote(source, stages.production), sources))

    assert sorted(version.version_number for version in promoted) == [*range(2, 14)]
    assert [promotion.error_count for promotion in records(admin, stages.production)] == [0] + [2] * 12


def test_one_that_has_to_be_compared_takes_none_along_of_those_that_go_with_it(
    admin: User, registry: Registry, stages: Stages, comparisons: Comparisons
) -> None:
    """Changes that wait for a branch share a transaction."""
    first, second, _ = stages.sources
    held: Any = Held()
    place = (stages.production.rid, "master")

    with ThreadPoolExecutor(6) as threads:
        leader = threads.submit(registry.repository.write, held, branch=place)
        held.wait_until_begun()
        promoting = []
        for number, source in enumerate((first, first, second, first), 1):
            promoting.append(threads.submit(admin.promote, source, stages.production))
            until(lambda: waiting(registry.repository) == number)  # noqa: B023 - it is asked here and now
        held.go_on()
        leader.result()
        numbers = [each.result().version_number for each in promoting]

    assert numbers == [2, 3, 5, 4]
    assert comparisons.pairs == [apis(first, second)]
    assert [promotion.error_count for promotion in records(admin, stages.production)] == [0, 0, 0, 0, 2]


def test_what_was_refused_for_its_findings_is_not_compared_again(
    admin: User, stages: Stages, comparisons: Comparisons, migrated_url: str
) -> None:
    admin("SetBranchPolicy", model_rid=stages.production.rid, compatibility=COMPATIBILITY_MODE_ENFORCE)
    for _ in range(2):
        failure = admin.failure("PromoteVersion", **stages.promotion(stages.sources[1]), preview=True)
        assert failure.name == "ModelApiIncompatible"
    assert len(comparisons.pairs) == 1
    assert admin("CheckPromotion", **stages.promotion(stages.sources[2]), preview=True).error_count == 2
    # A check stores nothing.
    assert row_counts(migrated_url)["verdicts"] == 1


def test_what_is_larger_than_a_model_api_may_be_now_is_promoted_where_it_is_stored(
    admin: User, registry: Registry, stages: Stages
) -> None:
    old = builders.version(stages.staging.rid)
    old.model_api.CopyFrom(wide_api("old", MAX_PARTS + 1))
    refused = admin.failure("CreateModelVersion", model_rid=stages.staging.rid, model_api=old.model_api)
    assert (refused.name, refused.parameters["errorType"]) == ("InvalidModelApi", "TOO_LARGE")
    stored = builders.append(registry.repository, old)

    assert admin.promote(stored, stages.production).version_number == 2
    assert admin.promote(stages.sources[0], stages.production).version_number == 3

    # What it takes anew; and back, what it took, and the output.
    assert [each.error_count for each in records(admin, stages.production)] == [0, MAX_PARTS + 3, MAX_PARTS + 2]


# With their call


@pytest.mark.parametrize("rpc", ["CheckPromotion", "PromoteVersion", "BatchPromoteVersions", "RollbackBranch"])
@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_comparison_ends_with_its_call(
    admin: User, registry: Registry, stages: Stages, comparisons: Comparisons, rpc: str, how: str, migrated_url: str
) -> None:
    wide = [admin.create_version(stages.staging, model_api=wide_api(label)) for label in "ab"]
    for source in wide[:1]:
        admin.promote(source, stages.production)
    before, comparisons.pairs[:], comparisons.ended = row_counts(migrated_url), [], 0
    begun, is_over = threading.Event(), threading.Event()

    def until_over() -> None:
        call = current_call()
        begun.set()
        until(lambda: call is None or call.is_over)
        is_over.set()

    comparisons.at_each = until_over
    promotion: dict[str, Any] = stages.promotion(wide[1])
    fields = {
        "CheckPromotion": promotion | {"preview": True},
        "PromoteVersion": promotion | {"preview": True},
        "BatchPromoteVersions": {"promotions": [stages.promotion(wide[n % 2 ^ 1]) for n in range(20)]},
        "RollbackBranch": {"model_rid": stages.production.rid, "to_version_number": 1},
    }[rpc]
    call = begin(registry, admin, rpc, 1 if how == "deadline" else DEADLINE_SECONDS, **fields)
    assert begun.wait(DEADLINE_SECONDS)
    if how == "cancel":
        call.cancel()
    assert is_over.wait(DEADLINE_SECONDS)
    until(lambda: registry.repository.connections().in_use == 0)
    comparisons.at_each = bool

    # What waits behind it is compared.
    assert admin("CheckPromotion", **stages.promotion(stages.sources[1]), preview=True).error_count == 500 + 1
    assert (len(comparisons.pairs), comparisons.ended) == (2, 1)
    assert row_counts(migrated_url) == before


# Beside others


def test_however_much_one_compares_others_are_served(
    admin: User, rival: User, registry: Registry, stages: Stages, comparisons: Comparisons
) -> None:
    goes_on = threading.Event()
    comparisons.at_first = lambda: goes_on.wait(DEADLINE_SECONDS)
    promotion = stages.promotion(stages.sources[1])
    calls = [begin(registry, admin, "CheckPromotion", **promotion, preview=True) for _ in range(2 * THREADS)]
    try:
        until(lambda: bool(comparisons.pairs))
        # What comes behind them on the same connection is answered, so they have arrived.
        assert HealthStub(registry.channel).Check(HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        assert rival("GetModel", model_rid=stages.production.rid) == stages.production
        assert rival("CheckPromotion", **promotion, preview=True).error_count == 2
        assert rival.promote(stages.sources[1], stages.production).version_number == 2
        assert not any(call.done() for call in calls)
    finally:
        goes_on.set()
    assert [call.result(DEADLINE_SECONDS).would_succeed for call in calls] == [True] * len(calls)


def test_one_that_waits_for_a_comparison_that_does_not_begin_is_given_up_with_its_call(
    admin: User, registry: Registry, stages: Stages, comparisons: Comparisons
) -> None:
    goes_on = threading.Event()
    comparisons.at_first = lambda: goes_on.wait(DEADLINE_SECONDS)
    promotion = stages.promotion(stages.sources[1])
    first = begin(registry, admin, "CheckPromotion", **promotion, preview=True)
    try:
        until(lambda: bool(comparisons.pairs))
        second = begin(registry, admin, "PromoteVersion", timeout=0.5, **promotion, preview=True)
        assert second.exception(DEADLINE_SECONDS).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: len(registry.chain._write_threads) == 0)
        assert len(registry.chain._comparison_threads) == 1
    finally:
        goes_on.set()
    assert first.result(DEADLINE_SECONDS).error_count == 2
    assert len(comparisons.pairs) == 1
    assert admin("GetBranch", model_rid=stages.production.rid, branch="master").version_count == 1
