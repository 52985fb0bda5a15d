"""Promotions over a real channel: compared and set, checked before, recorded, and in batches."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from modelregistry.v1.access_service_pb2 import ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import (
    COMPATIBILITY_MODE_ENFORCE,
    COMPATIBILITY_MODE_OFF,
    COMPATIBILITY_MODE_WARN,
    SEVERITY_ERROR,
    SEVERITY_WARN,
)
from modelregistry.v1.list_order_pb2 import LIST_ORDER_NEWEST_FIRST, LIST_ORDER_OLDEST_FIRST, LIST_ORDER_UNSPECIFIED
from modelregistry.v1.model_api_pb2 import ModelApi, ModelApiInput, ParameterType
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, PROMOTION_KIND_ROLLBACK, Promotion
from modelregistry.v1.promotion_service_pb2 import CheckPromotionResponse
from tests import builders
from tests.builders import model_api
from tests.rpc.harness import SOME_MODEL, SOME_VERSION, Failure, Registry, User, failure_of
from tests.storage.inspection import row_counts

pytestmark = pytest.mark.database("shared")


class Stages:
    """Two models; `source` is in staging, and `live` the head of production, with the same content."""

    def __init__(self, admin: User):
        self.staging, self.production = admin.create_model("staging"), admin.create_model("production")
        self.source = admin.create_version(self.staging)
        self.live = admin.promote(self.source, self.production)


@pytest.fixture
def stages(admin: User) -> Stages:
    return Stages(admin)


def promotions(user: User, **filters: Any) -> list[Promotion]:
    return list(user("ListPromotions", **filters).promotions)


def head_of(user: User, model: Model, branch: str = "master") -> ModelVersion:
    return user("GetBranch", model_rid=model.rid, branch=branch).head


# Compare and set


def test_a_promotion_that_expects_the_head_replaces_it(admin: User, stages: Stages) -> None:
    promoted = admin.promote(stages.source, stages.production, expected_head_version_rid=stages.live.rid)

    assert promoted.version_number == 2


def test_a_promotion_that_expects_another_head_is_aborted_and_says_which_one_is(admin: User, stages: Stages) -> None:
    admin.promote(stages.source, stages.production)
    head = head_of(admin, stages.production)

    failure = refused(admin, stages, expected_head_version_rid=stages.live.rid)

    assert (failure.code.name, failure.name) == ("ABORTED", "BranchHeadChanged")
    assert failure.parameters == {
        "modelRid": stages.production.rid,
        "branchName": "master",
        "expectedHeadVersionRid": stages.live.rid,
        "actualHeadVersionRid": head.rid,
    }
    assert head_of(admin, stages.production) == head


def refused(user: User, stages: Stages, **fields: Any) -> Failure:
    request = {"model_rid": stages.production.rid, "source_model_version_rid": stages.source.rid, "preview": True}
    return user.failure("PromoteVersion", **request | fields)


def test_a_branch_that_does_not_exist_has_no_head(admin: User, stages: Stages) -> None:
    failure = refused(admin, stages, branch="new", expected_head_version_rid=stages.live.rid)

    assert (failure.name, failure.parameters["actualHeadVersionRid"]) == ("BranchHeadChanged", "")
    assert admin.failure("GetBranch", model_rid=stages.production.rid, branch="new").name == "BranchNotFound"


def test_of_many_that_expect_one_head_one_replaces_it(admin: User, stages: Stages) -> None:
    def promote(_: int) -> str:
        try:
            return admin.promote(stages.source, stages.production, expected_head_version_rid=stages.live.rid).rid
        except grpc.RpcError as error:
            return failure_of(error).name

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(promote, range(8)))

    assert sorted(outcomes) == sorted(["BranchHeadChanged"] * 7 + [head_of(admin, stages.production).rid])


# Compatibility


def incompatible(admin: User, stages: Stages) -> ModelVersion:
    """A version of staging that lacks the input that production takes, and an output."""
    return admin.create_version(stages.staging, model_api=ModelApi())


def set_policy(admin: User, stages: Stages, mode: int, **fields: Any) -> None:
    admin("SetBranchPolicy", model_rid=stages.production.rid, compatibility=mode, **fields)


def test_findings_are_recorded_and_nothing_is_refused_where_there_is_no_policy(admin: User, stages: Stages) -> None:
    promoted = admin.promote(incompatible(admin, stages), stages.production)

    [promotion] = promotions(admin, model_version_rid=promoted.rid)
    assert [finding.path for finding in promotion.findings] == ['inputs["churn"]', 'outputs["score"]']
    assert (promotion.error_count, promotion.warning_count) == (2, 0)


def test_a_branch_that_enforces_compatibility_refuses_with_the_first_findings(admin: User, stages: Stages) -> None:
    set_policy(admin, stages, COMPATIBILITY_MODE_ENFORCE)
    source = incompatible(admin, stages)

    failure = refused(admin, stages, source_model_version_rid=source.rid)

    assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "ModelApiIncompatible")
    place = {"modelRid": stages.production.rid, "branchName": "master"}
    assert failure.parameters == {**place, "errorCount": "2", "comparedVersionNumber": "1"}
    assert [path for path, _ in failure.violations] == ['inputs["churn"]', 'outputs["score"]']
    assert head_of(admin, stages.production) == stages.live
    # What is compatible passes, and so do other branches.
    assert admin.promote(stages.source, stages.production).version_number == 2
    assert admin.promote(source, stages.production, branch="other").version_number == 1


def test_a_branch_that_enforces_compatibility_refuses_a_version_that_is_created(admin: User, stages: Stages) -> None:
    set_policy(admin, stages, COMPATIBILITY_MODE_ENFORCE)
    request = {"model_rid": stages.production.rid, "model_api": ModelApi()}

    failure = admin.failure("CreateModelVersion", **request)

    assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "ModelApiIncompatible")
    place = {"modelRid": stages.production.rid, "branchName": "master"}
    assert failure.parameters == {**place, "errorCount": "2", "comparedVersionNumber": "1"}
    assert [path for path, _ in failure.violations] == ['inputs["churn"]', 'outputs["score"]']
    assert head_of(admin, stages.production) == stages.live
    # What is compatible passes, and so do other branches.
    assert admin.create_version(stages.production).version_number == 2
    assert admin("CreateModelVersion", **request, branch="other").version_number == 1
    set_policy(admin, stages, COMPATIBILITY_MODE_WARN)
    assert admin("CreateModelVersion", **request).version_number == 3


def test_warnings_refuse_nothing(admin: User, stages: Stages) -> None:
    set_policy(admin, stages, COMPATIBILITY_MODE_ENFORCE)
    without_column = model_api()
    del without_column.inputs[0].tabular.columns[1]

    promoted = admin.promote(admin.create_version(stages.staging, model_api=without_column), stages.production)

    [promotion] = promotions(admin, model_version_rid=promoted.rid)
    assert [finding.severity for finding in promotion.findings] == [SEVERITY_WARN]
    assert (promotion.error_count, promotion.warning_count) == (0, 1)


def test_a_branch_without_comparison_records_no_findings(admin: User, stages: Stages) -> None:
    set_policy(admin, stages, COMPATIBILITY_MODE_OFF)

    promoted = admin.promote(incompatible(admin, stages), stages.production)

    [promotion] = promotions(admin, model_version_rid=promoted.rid)
    assert not promotion.findings
    assert promotion.error_count == 0


def test_many_findings_are_told_as_far_as_they_fit_and_counted(admin: User, stages: Stages) -> None:
    inputs = [
        ModelApiInput(parameter=ParameterType(name=f"{number}-" + "é" * 200, data_type=model_api_type()))
        for number in range(500)
    ]
    head = admin.create_version(stages.staging, model_api=ModelApi(inputs=inputs))
    admin.promote(head, stages.production)
    set_policy(admin, stages, COMPATIBILITY_MODE_ENFORCE)

    failure = refused(admin, stages, source_model_version_rid=incompatible(admin, stages).rid)

    assert failure.name == "ModelApiIncompatible"
    assert failure.parameters["errorCount"] == "500"
    assert failure.violations[-1][1].startswith("and ")


def model_api_type() -> Any:
    return model_api().outputs[0].parameter.data_type


@pytest.mark.database("own")
def test_a_pair_of_contents_is_compared_once(admin: User, stages: Stages, migrated_url: str) -> None:
    source = incompatible(admin, stages)
    for _ in range(3):
        admin.promote(source, stages.production)
        admin.promote(stages.source, stages.production)

    # There and back.
    assert row_counts(migrated_url)["verdicts"] == 2


# Checks


def check(user: User, stages: Stages, **fields: Any) -> CheckPromotionResponse:
    request = {"model_rid": stages.production.rid, "source_model_version_rid": stages.source.rid, "preview": True}
    return user("CheckPromotion", **request | fields)


def obstacles(answer: CheckPromotionResponse) -> list[str]:
    return [obstacle.error_name for obstacle in answer.obstacles]


def test_a_check_says_what_would_be_and_changes_nothing(admin: User, stages: Stages, migrated_url: str) -> None:
    source = incompatible(admin, stages)
    before = row_counts(migrated_url)

    answer = check(admin, stages, source_model_version_rid=source.rid, request_id=str(uuid.uuid4()))

    assert row_counts(migrated_url) == before
    assert answer.would_succeed
    assert not answer.obstacles
    assert (answer.version_number, answer.head_version_rid) == (2, stages.live.rid)
    assert answer.compatibility == COMPATIBILITY_MODE_WARN
    assert (answer.error_count, answer.warning_count) == (2, 0)
    promoted = admin.promote(source, stages.production)
    assert promoted.version_number == answer.version_number
    [promotion] = promotions(admin, model_version_rid=promoted.rid)
    assert promotion.findings == answer.findings
    # Now that the verdict is stored, it is the same.
    admin("RollbackBranch", model_rid=stages.production.rid, to_version_number=1)
    assert check(admin, stages, source_model_version_rid=source.rid).findings == answer.findings


def test_a_check_of_a_new_branch_has_no_head(admin: User, stages: Stages) -> None:
    answer = check(admin, stages, branch="new")

    assert (answer.would_succeed, answer.version_number) == (True, 1)
    assert not answer.HasField("head_version_rid")


def test_a_check_tells_all_obstacles_in_the_order_in_which_a_promotion_looks(admin: User, stages: Stages) -> None:
    set_policy(admin, stages, COMPATIBILITY_MODE_ENFORCE)
    source = incompatible(admin, stages)
    fields = {"source_model_version_rid": source.rid, "expected_head_version_rid": stages.source.rid}

    answer = check(admin, stages, **fields)

    assert not answer.would_succeed
    assert obstacles(answer) == ["BranchHeadChanged", "ModelApiIncompatible"]
    for obstacle in answer.obstacles:
        failure = refused(admin, stages, **fields)
        assert failure.name == obstacle.error_name
        assert failure.parameters == dict(obstacle.parameters)
        assert obstacle.description in failure.message
        fields["expected_head_version_rid"] = stages.live.rid


@pytest.mark.parametrize("target_role", [None, ROLE_VIEWER, ROLE_PROMOTER])
@pytest.mark.parametrize("source_role", [None, ROLE_VIEWER])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("expected", [None, SOME_VERSION])
def test_the_first_obstacle_is_what_the_promotion_fails_with(
    admin: User,
    jane: User,
    stages: Stages,
    registry: Registry,
    target_role: int | None,
    source_role: int | None,
    legacy: bool,
    expected: str | None,
) -> None:
    source = stages.source
    if legacy:
        source = builders.append(registry.repository, builders.version(stages.staging.rid), '{"type":"foundryMl"}')
    for model, role in ((stages.production, target_role), (stages.staging, source_role)):
        if role is not None:
            admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=role)
    fields = {"source_model_version_rid": source.rid, "expected_head_version_rid": expected}

    answer = check(jane, stages, **fields)

    assert answer.would_succeed == (not answer.obstacles)
    if answer.would_succeed:
        assert jane.promote(source, stages.production).version_number == answer.version_number
        return
    failure = refused(jane, stages, **fields)
    first = answer.obstacles[0]
    assert (failure.name, failure.parameters) == (first.error_name, dict(first.parameters))
    if target_role is None:
        assert obstacles(answer) == ["ModelNotFound"]
        assert len(answer.ListFields()) == 1
    if source_role is None:
        assert not answer.findings


def test_a_check_of_what_is_invisible_is_that_of_what_is_absent(admin: User, jane: User, stages: Stages) -> None:
    hidden, absent = (check(jane, stages, model_rid=rid) for rid in (stages.production.rid, SOME_MODEL))
    hidden.obstacles[0].parameters["modelRid"] = SOME_MODEL
    assert hidden == absent
    admin("GrantRole", resource_rid=stages.production.rid, principal="user:jane", role=ROLE_PROMOTER)
    hidden, absent = (check(jane, stages, source_model_version_rid=rid) for rid in (stages.source.rid, SOME_VERSION))
    hidden.obstacles[0].parameters["modelVersionRid"] = SOME_VERSION
    assert hidden == absent


def test_a_check_knows_a_request_that_was_carried_out(admin: User, stages: Stages) -> None:
    request_id = str(uuid.uuid4())
    promoted = admin.promote(stages.source, stages.production, request_id=request_id)

    assert check(admin, stages, request_id=request_id) == CheckPromotionResponse(
        would_succeed=True, repeated_version_rid=promoted.rid
    )
    assert obstacles(check(admin, stages, request_id=request_id, reason="else"))[0] == "RequestIdAlreadyUsed"


def test_a_check_wants_the_shape_and_the_preview_of_a_promotion(admin: User, stages: Stages) -> None:
    request = {"model_rid": stages.production.rid, "source_model_version_rid": stages.source.rid}
    assert admin.failure("CheckPromotion", **request).name == "ApiFeaturePreviewUsageOnly"
    assert admin.failure("CheckPromotion", **request, preview=True, branch="").name == "InvalidBranchName"


# Records


def test_a_promotion_says_who_what_and_why(admin: User, jane: User, stages: Stages) -> None:
    for model in (stages.staging, stages.production):
        admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_PROMOTER)
    reason = "The new model is better.\n\tSee the report: «ΔAUC = 0.02»"

    promoted = jane.promote(stages.source, stages.production, reason=reason)

    [promotion] = promotions(jane, created_by="user:jane", model_rid=stages.production.rid)
    assert promotion == Promotion(
        rid=promotion.rid,
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=stages.staging.rid,
        source_model_version_rid=stages.source.rid,
        model_rid=stages.production.rid,
        branch="master",
        model_version_rid=promoted.rid,
        version_number=2,
        replaced_version_rid=stages.live.rid,
        created_by="user:jane",
        reason=reason,
        created_time=promoted.created_time,
    )
    assert jane("GetPromotion", promotion_rid=promotion.rid) == promotion


LINES_ALONE = "must not contain control characters other than tab, line feed and carriage return"


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("x" * 4097, "must be at most 4096 bytes long, not 4097"),
        ("é" * 2049, "must be at most 4096 bytes long, not 4098"),
        ("a\0b", f"{LINES_ALONE}, but has U+0000 in 'a\\x00b'"),
        ("\x1b[31m", f"{LINES_ALONE}, but has U+001B in '\\x1b[31m'"),
    ],
)
def test_a_reason_is_free_text_of_a_bounded_length(admin: User, stages: Stages, reason: str, sentence: str) -> None:
    assert refused(admin, stages, reason=reason).violations == [("reason", sentence)]
    assert admin.promote(stages.source, stages.production, reason="é" * 2048).version_number == 2


def test_promotions_are_listed_page_by_page_with_tokens_of_their_own_query(admin: User, stages: Stages) -> None:
    promoted = [admin.promote(stages.source, stages.production).rid for _ in range(4)]
    expected = [*reversed(promoted), stages.live.rid]
    wanted = {"model_rid": stages.production.rid, "page_size": 2}
    found: list[str] = []
    token = ""
    while True:
        page = admin("ListPromotions", **wanted, **({"page_token": token} if token else {}))
        found += [promotion.model_version_rid for promotion in page.promotions]
        if not page.HasField("next_page_token"):
            break
        token = page.next_page_token

    assert found == expected
    failure = admin.failure("ListPromotions", page_size=2, page_token=token)
    assert (failure.name, failure.parameters) == ("InvalidPageToken", {"pageToken": token})


def test_oldest_first_each_page_has_a_token_to_go_on_from_at_any_later_time(admin: User, stages: Stages) -> None:
    wanted = {"model_rid": stages.production.rid, "page_size": 2, "order": LIST_ORDER_OLDEST_FIRST}
    expected, found, token = [stages.live.rid], [], ""
    for pages, new in ((1, 0), (2, 3), (1, 0), (1, 1)):
        expected += [admin.promote(stages.source, stages.production).rid for _ in range(new)]
        for _ in range(pages):
            page = admin("ListPromotions", **wanted, **({"page_token": token} if token else {}))
            found += [promotion.model_version_rid for promotion in page.promotions]
            token = page.next_page_token
            assert token
        assert found == expected


@pytest.mark.database("own")
def test_oldest_first_the_token_of_an_empty_registry_is_its_beginning(admin: User, jane: User, folder: str) -> None:
    token = jane("ListPromotions", order=LIST_ORDER_OLDEST_FIRST).next_page_token
    admin("GrantRole", resource_rid=folder, principal="user:jane", role=ROLE_VIEWER)
    source, target = admin.create_model("staging"), admin.create_model("production")
    promoted = admin.promote(admin.create_version(source), target)

    page = jane("ListPromotions", order=LIST_ORDER_OLDEST_FIRST, page_token=token)

    assert [promotion.model_version_rid for promotion in page.promotions] == [promoted.rid]


def test_a_token_of_one_order_is_none_of_the_other(admin: User, stages: Stages) -> None:
    admin.promote(stages.source, stages.production)
    wanted = {"model_rid": stages.production.rid, "page_size": 1}
    orders = [LIST_ORDER_UNSPECIFIED, LIST_ORDER_NEWEST_FIRST, LIST_ORDER_OLDEST_FIRST]
    tokens = [admin("ListPromotions", **wanted, order=order).next_page_token for order in orders]

    for order, others in ((LIST_ORDER_OLDEST_FIRST, tokens[:2]), (LIST_ORDER_NEWEST_FIRST, tokens[2:])):
        for token in others:
            failure = admin.failure("ListPromotions", **wanted, order=order, page_token=token)
            assert (failure.name, failure.parameters) == ("InvalidPageToken", {"pageToken": token})
    # Those that come first by themselves are the newest.
    assert tokens[0] == tokens[1]


@pytest.mark.database("own")
def test_a_caller_lists_what_it_may_see_and_asks_for_models_that_it_may_see(
    admin: User, jane: User, stages: Stages
) -> None:
    assert promotions(jane) == []
    for model_rid in (stages.production.rid, SOME_MODEL):
        failure = jane.failure("ListPromotions", model_rid=model_rid)
        assert (failure.name, failure.parameters) == ("ModelNotFound", {"modelRid": model_rid})
    admin("GrantRole", resource_rid=stages.production.rid, principal="user:jane", role=ROLE_VIEWER)
    [promotion] = promotions(jane)
    assert promotion.model_version_rid == stages.live.rid
    assert not promotion.HasField("source_model_version_rid")


# Rollbacks


def test_a_rollback_makes_an_earlier_version_the_head_again(admin: User, stages: Stages) -> None:
    set_policy(admin, stages, COMPATIBILITY_MODE_WARN)
    bad = admin.promote(incompatible(admin, stages), stages.production)
    set_policy(admin, stages, COMPATIBILITY_MODE_ENFORCE)

    again = admin(
        "RollbackBranch",
        model_rid=stages.production.rid,
        to_version_number=1,
        reason="consumers broke",
        expected_head_version_rid=bad.rid,
    )

    assert (again.version_number, again.model_api) == (3, stages.live.model_api)
    assert again.source.promoted.previous_model_version_rid == stages.live.rid
    assert again.root_model_version_rid == stages.source.rid
    assert head_of(admin, stages.production) == again
    [promotion] = promotions(admin, model_version_rid=again.rid)
    assert (promotion.kind, promotion.reason) == (PROMOTION_KIND_ROLLBACK, "consumers broke")
    assert (promotion.source_model_version_rid, promotion.replaced_version_rid) == (stages.live.rid, bad.rid)


def test_compatibility_only_warns_of_a_rollback(admin: User, stages: Stages) -> None:
    empty = admin.promote(incompatible(admin, stages), stages.production, branch="b")
    admin.promote(stages.source, stages.production, branch="b")
    set_policy(admin, stages, COMPATIBILITY_MODE_ENFORCE, branch="b")

    again = admin("RollbackBranch", model_rid=stages.production.rid, branch="b", to_version_number=1)

    assert again.model_api == empty.model_api
    [promotion] = promotions(admin, model_version_rid=again.rid)
    assert promotion.error_count == 2
    assert all(finding.severity == SEVERITY_ERROR for finding in promotion.findings)


def test_every_earlier_failure_of_a_rollback_wins_over_the_later_ones(
    admin: User, jane: User, stages: Stages, registry: Registry
) -> None:
    legacy = builders.append(registry.repository, builders.version(stages.production.rid), '{"type":"foundryMl"}')
    assert legacy.version_number == 2
    head = admin.promote(stages.source, stages.production)
    request: dict[str, Any] = {"model_rid": "x", "branch": "nope", "to_version_number": 0}

    def outcome(user: User = jane) -> str:
        return user.failure("RollbackBranch", **request).name

    assert outcome(registry.user("jane", scopes=("api:models-read",))) == "ApiUsageDenied"
    assert outcome() == "InvalidArgument"
    request |= {"model_rid": stages.production.rid, "to_version_number": 9, "expected_head_version_rid": SOME_VERSION}
    assert outcome() == "ModelNotFound"
    admin("GrantRole", resource_rid=stages.production.rid, principal="user:jane", role=ROLE_VIEWER)
    assert outcome() == "PromoteVersionModelPermissionDenied"
    admin("GrantRole", resource_rid=stages.production.rid, principal="user:jane", role=ROLE_PROMOTER)
    failure = jane.failure("RollbackBranch", **request)
    assert (failure.name, failure.parameters["branchName"]) == ("BranchNotFound", "nope")
    del request["branch"]
    failure = jane.failure("RollbackBranch", **request)
    assert failure.name == "VersionNumberNotFound"
    assert failure.parameters == {
        "modelRid": stages.production.rid,
        "branchName": "master",
        "versionNumber": "9",
    }
    request["to_version_number"] = 2
    assert outcome() == "UnsupportedModelSource"
    request["to_version_number"] = 3
    assert outcome() == "BranchHeadChanged"
    request["expected_head_version_rid"] = head.rid
    failure = jane.failure("RollbackBranch", **request)
    assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "VersionAlreadyHead")
    assert failure.parameters["versionNumber"] == "3"
    request["to_version_number"] = 1
    assert jane("RollbackBranch", **request).version_number == 4


# Batches


def entry(model: Model, source: ModelVersion, **fields: Any) -> dict[str, Any]:
    return {"model_rid": model.rid, "source_model_version_rid": source.rid, **fields}


def test_a_batch_promotes_all_in_the_order_given(admin: User, stages: Stages) -> None:
    other = admin.create_version(stages.staging, model_api=model_api("other"))
    entries = [
        entry(stages.production, stages.source, reason="first"),
        entry(stages.production, other, branch="canary"),
        entry(stages.staging, stages.live, branch="back"),
        entry(stages.production, other),
        entry(stages.production, stages.source),
    ]

    promoted = admin("BatchPromoteVersions", promotions=entries).promoted

    assert [(each.model_rid, each.branch, each.version_number) for each in promoted] == [
        (stages.production.rid, "master", 2),
        (stages.production.rid, "canary", 1),
        (stages.staging.rid, "back", 1),
        (stages.production.rid, "master", 3),
        (stages.production.rid, "master", 4),
    ]
    records = [admin("GetPromotion", promotion_rid=each.promotion_rid) for each in promoted]
    assert [record.model_version_rid for record in records] == [each.model_version_rid for each in promoted]
    assert [record.replaced_version_rid for record in records] == [
        stages.live.rid,
        "",
        "",
        promoted[0].model_version_rid,
        promoted[3].model_version_rid,
    ]
    assert records[0].reason == "first"
    assert [record.error_count for record in records] == [0, 0, 0, 2, 2]
    assert head_of(admin, stages.production).rid == promoted[4].model_version_rid


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"model_rid": SOME_MODEL}, "ModelNotFound"),
        ({"source_model_version_rid": SOME_VERSION}, "ModelVersionNotFound"),
        ({"expected_head_version_rid": SOME_VERSION}, "BranchHeadChanged"),
        ({"branch": "enforcing"}, "ModelApiIncompatible"),
    ],
)
def test_a_batch_with_one_bad_entry_does_nothing_and_names_it(
    admin: User, stages: Stages, migrated_url: str, wrong: dict[str, Any], name: str
) -> None:
    source = incompatible(admin, stages)
    admin.promote(stages.source, stages.production, branch="enforcing")
    set_policy(admin, stages, COMPATIBILITY_MODE_ENFORCE, branch="enforcing")
    before = row_counts(migrated_url)
    good = entry(stages.production, source, branch="new")

    failure = admin.failure(
        "BatchPromoteVersions", promotions=[good, good, good | wrong, good], request_id=str(uuid.uuid4())
    )

    assert failure.name == name
    assert failure.violations[0][0] == "promotions[2]"
    assert row_counts(migrated_url) == before


def test_the_shape_of_a_batch_is_that_of_its_entries(admin: User, stages: Stages) -> None:
    good = entry(stages.production, stages.source)
    for count in (0, 101):
        failure = admin.failure("BatchPromoteVersions", promotions=[good] * count)
        assert failure.violations == [("promotions", f"must have 1 to 100 entries, not {count}")]
    failure = admin.failure("BatchPromoteVersions", promotions=[good, good | {"model_rid": "x", "reason": "\0"}])
    assert [path for path, _ in failure.violations] == ["promotions[1].model_rid", "promotions[1].reason"]


def test_a_full_batch_into_one_branch_is_numbered_without_gaps(admin: User, stages: Stages) -> None:
    promoted = admin("BatchPromoteVersions", promotions=[entry(stages.production, stages.source)] * 100).promoted

    assert [each.version_number for each in promoted] == list(range(2, 102))


def test_batches_that_share_branches_in_opposite_orders_all_succeed(admin: User, stages: Stages) -> None:
    """Also with single promotions and rollbacks between, and with verdicts to be stored on the way."""
    other = admin.create_version(stages.staging, model_api=ModelApi())
    branches = [f"b{number}" for number in range(6)]

    def run(number: int) -> int:
        if number % 4 == 3:
            return len([admin.promote(other, stages.production, branch=branch) for branch in branches])
        order = branches[::-1] if number % 2 else branches
        entries = [entry(stages.production, (stages.source, other)[number % 3 % 2], branch=branch) for branch in order]
        return len(admin("BatchPromoteVersions", promotions=entries).promoted)

    with ThreadPoolExecutor(8) as threads:
        made = sum(threads.map(run, range(24)))

    counts = [admin("GetBranch", model_rid=stages.production.rid, branch=branch).version_count for branch in branches]
    assert counts == [24] * 6
    assert made == 144


def test_a_batch_never_waits_for_another_that_waits_for_it(
    admin: User, stages: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one of them is run again: the log would say so."""
    other = admin.create_version(stages.staging, model_api=ModelApi())
    branches = [f"b{number}" for number in range(10)]

    def run(number: int) -> None:
        order = branches[::-1] if number % 2 else branches
        source = other if number % 3 else stages.source
        admin("BatchPromoteVersions", promotions=[entry(stages.production, source, branch=branch) for branch in order])

    with caplog.at_level("INFO", logger="server.storage.sql.repository"), ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(32)))

    assert not [record for record in caplog.records if "running a transaction again" in record.message]
