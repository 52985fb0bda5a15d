"""ENFORCE_TRANSITIVE: a new head is held to each Model API that heads have had since it was set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_PROMOTER
from modelregistry.v1.compatibility_pb2 import (
    COMPATIBILITY_MODE_ENFORCE,
    COMPATIBILITY_MODE_ENFORCE_TRANSITIVE,
    COMPATIBILITY_MODE_WARN,
    COMPATIBILITY_RULE_TYPE_CHANGED,
    SEVERITY_ERROR,
)
from modelregistry.v1.model_api_pb2 import (
    BooleanType,
    Column,
    DataType,
    DoubleType,
    ModelApi,
    ModelApiInput,
    StringType,
    TabularType,
)
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.promotion_pb2 import Promotion
from server.core.rids import new_model_version_rid
from server.rules import verdicts
from server.rules.api_history import MOST_APIS
from server.storage.contract import HeadApi, PolicyPeriod, Transaction
from tests import builders
from tests.conftest import OpenRepository
from tests.rpc.harness import THREADS, Registry, User, failure_of, serving
from tests.storage.conftest import at_once
from tests.storage.inspection import row_counts

TYPES = {
    "double": DataType(double=DoubleType()),
    "string": DataType(string=StringType()),
    "boolean": DataType(boolean=BooleanType()),
}


def api(**columns: str) -> ModelApi:
    """The API of a model that takes a table with these columns, none of which must be given."""
    table = [Column(name=name, data_type=TYPES[kind], required=False) for name, kind in columns.items()]
    return ModelApi(inputs=[ModelApiInput(tabular=TabularType(name="table", columns=table))])


STRING, GONE, DOUBLE = api(age="double", country="string"), api(age="double"), api(age="double", country="double")


class Stages:
    """A model whose versions are promoted into another one, which holds to all its heads."""

    def __init__(self, admin: User):
        self.admin = admin
        self.staging = admin.create_model("staging", builders.new_folder_rid())
        self.production = admin.create_model("production")

    def source(self, model_api: ModelApi, *requirements: str) -> ModelVersion:
        return self.admin.create_version(self.staging, model_api=model_api, conda_requirements=requirements)

    def promote(self, model_api: ModelApi, *requirements: str) -> ModelVersion:
        return self.admin.promote(self.source(model_api, *requirements), self.production)

    def promotion(self, model_api: ModelApi) -> dict[str, Any]:
        return {"model_rid": self.production.rid, "source_model_version_rid": self.source(model_api).rid}

    def failure(self, model_api: ModelApi) -> Any:
        return self.admin.failure("PromoteVersion", **self.promotion(model_api), preview=True)

    def set_policy(self, *modes: int, **fields: Any) -> None:
        for mode in modes or (0,):
            self.admin("SetBranchPolicy", model_rid=self.production.rid, compatibility=mode, **fields)

    def version_count(self) -> int:
        count: int = self.admin("GetBranch", model_rid=self.production.rid).version_count
        return count


@pytest.fixture
def registry(migrated_url: str, open_repository: OpenRepository) -> Iterator[Registry]:
    """A server with a connection for each of its threads, as a real one has."""
    with serving(open_repository(migrated_url, pool_size=2 * THREADS)) as registry:
        yield registry


@pytest.fixture
def stages(admin: User) -> Stages:
    stages = Stages(admin)
    stages.promote(STRING)
    stages.set_policy(COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)
    return stages


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ModelApi, ModelApi]]:
    """The pairs that are compared."""
    pairs: list[tuple[ModelApi, ModelApi]] = []
    compare = verdicts.compare

    def noted(head: ModelApi, candidate: ModelApi) -> Promotion:
        pairs.append((head, candidate))
        return compare(head, candidate)

    monkeypatch.setattr(verdicts, "compare", noted)
    return pairs


def assert_refused_beside(failure: Any, version_number: int, model: Model) -> None:
    assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "ModelApiIncompatible")
    place = {"modelRid": model.rid, "branchName": "master"}
    assert failure.parameters == {**place, "errorCount": "1", "comparedVersionNumber": str(version_number)}
    path, said = failure.violations[-1]
    assert path == 'inputs["table"].columns["country"].data_type'
    assert said.startswith(f"beside version {version_number}: "), said


def test_what_was_removed_is_not_added_again_with_another_type(stages: Stages) -> None:
    stages.promote(GONE)

    assert_refused_beside(stages.failure(DOUBLE), 1, stages.production)
    assert stages.version_count() == 2
    assert stages.promote(STRING).version_number == 3
    # Without looking back, it passes.
    stages.set_policy(COMPATIBILITY_MODE_ENFORCE)
    stages.promote(GONE)
    assert stages.promote(DOUBLE).version_number == 5


def test_a_check_says_beside_which_version(stages: Stages, admin: User, migrated_url: str) -> None:
    stages.promote(GONE)
    promotion = stages.promotion(DOUBLE)
    before = row_counts(migrated_url)

    # Whether the verdicts are stored, or have to be made.
    for _ in range(2):
        checked = admin("CheckPromotion", **promotion, preview=True)
        [obstacle] = checked.obstacles
        assert (obstacle.error_name, obstacle.parameters["comparedVersionNumber"]) == ("ModelApiIncompatible", "1")
        assert (checked.would_succeed, checked.error_count, checked.compatibility) == (False, 1, 4)
        [finding] = checked.findings
        assert (finding.rule, finding.severity) == (COMPATIBILITY_RULE_TYPE_CHANGED, SEVERITY_ERROR)
        assert finding.earlier_version_number == 1
        if row_counts(migrated_url) == before:
            assert admin.failure("PromoteVersion", **promotion, preview=True).name == "ModelApiIncompatible"
            assert row_counts(migrated_url) != before


def test_findings_beside_the_head_are_told_first(stages: Stages, admin: User) -> None:
    failure = stages.failure(DOUBLE)
    assert (failure.name, failure.parameters["comparedVersionNumber"]) == ("ModelApiIncompatible", "1")
    assert "beside" not in failure.violations[0][1]
    [finding] = admin("CheckPromotion", **stages.promotion(DOUBLE), preview=True).findings
    assert not finding.HasField("earlier_version_number")


def test_in_a_batch_each_entry_is_held_to_those_before_it(stages: Stages, admin: User) -> None:
    entries = [stages.promotion(each) for each in (GONE, api(age="double", city="string"), GONE, DOUBLE)]
    failure = admin.failure("BatchPromoteVersions", promotions=entries)
    assert failure.violations[0][0] == "promotions[3]"
    assert_refused_beside(failure, 1, stages.production)
    assert stages.version_count() == 1
    # What one entry has brought, another one must keep, too.
    city = api(age="double", city="boolean")
    failure = admin.failure("BatchPromoteVersions", promotions=[*entries[:3], stages.promotion(city)])
    assert failure.parameters["comparedVersionNumber"] == "3"

    answer = admin("BatchPromoteVersions", promotions=entries[:3])

    assert [each.version_number for each in answer.promoted] == [2, 3, 4]
    assert stages.failure(city).parameters["comparedVersionNumber"] == "3"
    assert_refused_beside(stages.failure(DOUBLE), 1, stages.production)


def test_a_version_that_is_created_is_held_to_all_heads(stages: Stages, admin: User, migrated_url: str) -> None:
    admin.create_version(stages.production, model_api=GONE)
    before = row_counts(migrated_url)

    failure = admin.failure("CreateModelVersion", model_rid=stages.production.rid, model_api=DOUBLE)

    assert_refused_beside(failure, 1, stages.production)
    # Nothing of what is refused is stored.
    assert row_counts(migrated_url) == before
    assert admin.create_version(stages.production, model_api=STRING).version_number == 3
    # What was created is a head that counts.
    assert admin.create_version(stages.production, model_api=api(age="double", city="string")).version_number == 4
    assert admin.create_version(stages.production, model_api=GONE).version_number == 5
    assert stages.failure(api(age="double", city="double")).parameters["comparedVersionNumber"] == "4"


def test_a_new_branch_is_held_to_its_first_version(admin: User) -> None:
    for first in ("created", "promoted"):
        stages = Stages(dataclass_copy(admin, first))
        stages.set_policy(COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)
        if first == "created":
            admin.create_version(stages.production, model_api=STRING)
        else:
            stages.promote(STRING)
        stages.promote(GONE)
        assert_refused_beside(stages.failure(DOUBLE), 1, stages.production)


def test_a_rollback_is_never_refused_and_what_it_brings_counts(stages: Stages, admin: User) -> None:
    stages.set_policy(COMPATIBILITY_MODE_WARN)
    stages.promote(DOUBLE)
    stages.set_policy(COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)
    stages.promote(GONE)

    rolled_back = admin("RollbackBranch", model_rid=stages.production.rid, to_version_number=1)

    assert rolled_back.version_number == 4
    assert stages.promote(GONE).version_number == 5
    assert_refused_beside(stages.failure(DOUBLE), 4, stages.production)
    assert_refused_beside(stages.failure(STRING), 2, stages.production)


def test_heads_of_before_the_mode_was_set_do_not_count(stages: Stages, admin: User) -> None:
    stages.promote(GONE)
    # Another field does not begin anew, nor does the same mode.
    stages.set_policy(0, COMPATIBILITY_MODE_ENFORCE_TRANSITIVE, promotion_only=True)
    admin("LockBranch", model_rid=stages.production.rid, reason="a reason")
    admin("UnlockBranch", model_rid=stages.production.rid)
    assert_refused_beside(stages.failure(DOUBLE), 1, stages.production)

    stages.set_policy(COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)

    policy = admin("GetBranchPolicy", model_rid=stages.production.rid)
    assert (policy.compatibility_since_revision, policy.revision) == (7, 7)
    # The head of then counts, though it was not promoted since.
    stages.promote(DOUBLE)
    stages.promote(GONE)
    assert_refused_beside(stages.failure(STRING), 3, stages.production)


def test_a_folder_holds_the_branches_of_its_models_to_all_their_heads(admin: User) -> None:
    stages = Stages(admin)
    stages.promote(DOUBLE)
    stages.set_policy(COMPATIBILITY_MODE_ENFORCE)
    stages.promote(GONE)
    stages.promote(STRING)
    folder = {"folder_rid": admin.folder, "compatibility": COMPATIBILITY_MODE_ENFORCE_TRANSITIVE}
    policy = admin("SetFolderBranchPolicy", **folder)
    assert policy.compatibility_since_revision == 1

    stages.promote(GONE)
    assert_refused_beside(stages.failure(DOUBLE), 3, stages.production)

    # A policy of the branch counts from its own revision, and that of the folder goes on.
    stages.set_policy(COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)
    assert stages.promote(STRING).version_number == 5
    assert stages.promote(GONE).version_number == 6
    assert_refused_beside(stages.failure(DOUBLE), 5, stages.production)
    admin("SetFolderBranchPolicy", folder_rid=admin.folder, clear_fields=["compatibility"])
    assert_refused_beside(stages.failure(DOUBLE), 5, stages.production)
    stages.set_policy(COMPATIBILITY_MODE_ENFORCE)
    assert stages.promote(DOUBLE).version_number == 7


def test_a_head_that_comes_while_something_is_compared_is_all_that_is_compared_then(
    stages: Stages, admin: User, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two with Model API of their own at once: the later one is held to what the other has made."""
    for model in (stages.staging, stages.production):
        admin("GrantRole", resource_rid=model.rid, principal="user:rival", role=ROLE_PROMOTER)
    rival = registry.user("rival")
    city, other_city = (stages.source(api(age="double", city=kind)) for kind in ("string", "boolean"))
    stages.promote(GONE)
    pairs, compare = [], verdicts.compare

    def noted(head: ModelApi, candidate: ModelApi) -> Promotion:
        pairs.append((head, candidate))
        # The one that it replaces first, and then the one before.
        if len(pairs) == 2:
            rival.promote(other_city, stages.production)
            rival.promote(stages.source(GONE, "again"), stages.production)
        return compare(head, candidate)

    monkeypatch.setattr(verdicts, "compare", noted)
    promotion = {"model_rid": stages.production.rid, "source_model_version_rid": city.rid, "preview": True}
    failure = admin.failure("PromoteVersion", **promotion)

    assert (failure.name, failure.parameters["comparedVersionNumber"]) == ("ModelApiIncompatible", "3")
    of_this = [head for head, candidate in pairs if candidate == city.model_api]
    # Beside the heads of before, the new head and the one before it.
    assert of_this == [GONE, STRING, GONE, other_city.model_api]


def test_of_many_at_once_none_breaks_what_another_one_has_brought(admin: User) -> None:
    stages = Stages(admin)
    stages.promote(GONE)
    stages.set_policy(COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)
    kinds = [*TYPES] * 4
    # Each has a Model API of its own, and those with the same country fit together.
    sources = [
        stages.source(api(age="double", country=kind, **{f"own_{number}": "double"}))
        for number, kind in enumerate(kinds)
    ]

    def promote(number: int) -> str:
        promotion = {"model_rid": stages.production.rid, "source_model_version_rid": sources[number].rid}
        try:
            admin("PromoteVersion", **promotion, preview=True)
        except grpc.RpcError as error:
            return failure_of(error).name
        return kinds[number]

    answers = at_once(len(sources), promote)

    promoted = [answer for answer in answers if answer in TYPES]
    assert promoted == promoted[:1] * 4
    assert sorted({*answers} - {*promoted}) == ["ModelApiIncompatible"]
    assert stages.version_count() == 5


def test_what_has_the_model_api_of_an_earlier_head_is_compared_with_the_head_alone(
    stages: Stages, compared: list[tuple[ModelApi, ModelApi]]
) -> None:
    """However many versions there are: the first of a Model API stands for all."""
    apis = [STRING, GONE, api(age="double", city="string")]
    for number in range(3):
        for each in apis:
            stages.promote(each, f"round=={number}")
    compared.clear()

    for each in apis:
        stages.promote(each, "round==3")

    assert compared == [(apis[2], apis[0]), (apis[0], apis[1]), (apis[1], apis[2])]


def test_with_more_model_apis_than_are_compared_only_a_rollback_passes(
    stages: Stages, admin: User, registry: Registry, compared: list[tuple[ModelApi, ModelApi]]
) -> None:
    place, period = (stages.production.rid, "master"), PolicyPeriod(stages.production.rid, 1)

    def add_heads(tx: Transaction, count: int) -> None:
        for _ in range(count):
            version = builders.version(place[0])
            version.model_api.CopyFrom(STRING)
            digest = tx.put_content(version)
            number = tx.append_version(version, digest).version_number
            tx.add_head_api(*place, period, HeadApi(new_model_version_rid().encode(), number, digest))

    registry.repository.write(lambda tx: add_heads(tx, MOST_APIS))
    stages.promote(STRING, "one more")
    compared.clear()

    promotion = stages.promotion(STRING)
    refused = [
        admin.failure("PromoteVersion", **promotion, preview=True),
        admin.failure("BatchPromoteVersions", promotions=[promotion]),
        admin.failure("CreateModelVersion", model_rid=place[0], model_api=STRING, conda_requirements=["one more"]),
    ]

    for failure in refused:
        assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "TooManyModelApis")
        bound = {"resourceRid": place[0], "sinceRevision": "1", "limit": "256"}
        assert failure.parameters == {"modelRid": place[0], "branchName": "master", **bound}
    [obstacle] = admin("CheckPromotion", **promotion, preview=True).obstacles
    assert obstacle.error_name == "TooManyModelApis"
    assert compared == [(STRING, STRING)]
    number = stages.version_count()
    assert admin("RollbackBranch", model_rid=place[0], to_version_number=1).version_number == number + 1
    stages.set_policy(COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)
    assert stages.promote(GONE).version_number == number + 2


def dataclass_copy(user: User, name: str) -> User:
    """The same user, who creates models in a folder of this name."""
    return User(user.channel, user.metadata, f"{user.folder}-{name}")
