"""Where promoted versions must come from, who promotes and rolls back, and that there are no ways round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_OFF
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.promotion_pb2 import AllowedSource, AllowedSources, ApprovalRule, BranchPolicy, Principals
from server.codec.json_form import to_json
from server.rules.importing import import_lines
from server.storage.sql.repository import SqlRepository
from tests.builders import model_api, new_folder_rid
from tests.imports import line, promoted, version_rid, version_row
from tests.rpc.approving import weaken_policy
from tests.rpc.harness import Failure, Registry, User, serving
from tests.rpc.test_no_oracle import ABSENT_MODEL, normalised
from tests.storage.conftest import Clock, clock, timed
from tests.storage.inspection import statements

__all__ = ["clock", "timed"]  # fixtures

HOUR_MS = 3_600_000


@pytest.fixture
def registry(timed: SqlRepository) -> Iterator[Registry]:
    """A server that reads the test's clock, on each backend."""
    with serving(timed) as registry:
        yield registry


@pytest.fixture
def dev(admin: User) -> Model:
    """Where versions are created."""
    return admin.create_model("dev")


@pytest.fixture
def staging(admin: User) -> Model:
    """What versions come through."""
    return admin.create_model("staging")


@pytest.fixture
def production(admin: User, jane: User) -> Model:
    """What is protected; Jane owns it."""
    model = admin.create_model("production")
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_OWNER)
    return model


def sources(*models: Model, branch: str | None = None) -> AllowedSources:
    return AllowedSources(sources=[AllowedSource(model_rid=model.rid, branch=branch) for model in models])


def protect(admin: User, model: Model, **rules: Any) -> BranchPolicy:
    """Set rules on the branch `master` of a model."""
    policy: BranchPolicy = admin("SetBranchPolicy", model_rid=model.rid, **rules)
    return policy


def promotion_of(source: ModelVersion, target: Model) -> dict[str, Any]:
    return {"model_rid": target.rid, "source_model_version_rid": source.rid}


def refusal(user: User, source: ModelVersion, target: Model) -> Failure:
    """How a promotion fails: by itself, in a batch, and when it is checked."""
    request = promotion_of(source, target)
    failure = user.failure("PromoteVersion", **request, preview=True)
    in_batch = user.failure("BatchPromoteVersions", promotions=[request])
    first = user("CheckPromotion", **request, preview=True).obstacles[0]
    assert (in_batch.name, in_batch.parameters) == (failure.name, failure.parameters)
    assert (first.error_name, dict(first.parameters)) == (failure.name, failure.parameters)
    assert first.description in failure.message
    return failure


def version(user: User, model: Model, label: str = "churn", **fields: Any) -> ModelVersion:
    return user.create_version(model, model_api=model_api(label), **fields)


# Sources


def test_a_version_comes_from_an_allowed_source_or_was_promoted_through_one(
    admin: User, dev: Model, staging: Model, production: Model
) -> None:
    protect(admin, production, allowed_sources=sources(staging, branch="rc"))
    created = version(admin, dev)

    failure = refusal(admin, created, production)

    assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "SourceNotAllowed")
    assert failure.parameters == {
        "modelRid": production.rid,
        "branchName": "master",
        "resourceRid": production.rid,
        "allowedSources": f"{staging.rid}:rc",
    }
    # Not through another branch of the same model.
    assert refusal(admin, admin.promote(created, staging), production).name == "SourceNotAllowed"
    through = admin.promote(created, staging, branch="rc")
    # What it was promoted from went through nothing.
    assert refusal(admin, created, production).name == "SourceNotAllowed"
    assert admin.promote(through, production).version_number == 1
    # Through a chain.
    later = admin.promote(admin.promote(through, dev), dev, branch="other")
    assert admin.promote(later, production).version_number == 2
    # Replaced meanwhile.
    version(admin, staging, "other", branch="rc")
    assert admin.promote(through, production).version_number == 3


def test_no_source_is_allowed_by_an_empty_list_and_master_where_no_branch_is_named(
    admin: User, staging: Model, production: Model
) -> None:
    source = version(admin, staging)
    protect(admin, production, allowed_sources=AllowedSources())
    assert refusal(admin, source, production).name == "SourceNotAllowed"
    protect(admin, production, allowed_sources=sources(staging))
    assert admin.promote(source, production).version_number == 1
    protect(admin, production, clear_fields=["allowed_sources"])
    assert admin.promote(version(admin, staging, branch="any"), production).version_number == 2


def test_each_level_has_its_own_sources(admin: User, dev: Model, staging: Model, production: Model) -> None:
    protect(admin, production, allowed_sources=sources(dev))
    admin("SetFolderBranchPolicy", folder_rid=admin.folder, allowed_sources=sources(staging, branch="rc"))
    created = version(admin, dev, branch="feature")
    assert refusal(admin, created, production).parameters["resourceRid"] == production.rid
    through_dev = version(admin, dev)
    assert refusal(admin, through_dev, production).parameters["resourceRid"] == admin.folder
    assert admin.promote(admin.promote(through_dev, staging, branch="rc"), production).version_number == 1


def test_an_ancestor_counts_that_the_caller_may_not_see(
    admin: User, jane: User, dev: Model, staging: Model, production: Model
) -> None:
    admin("GrantRole", resource_rid=dev.rid, principal="user:jane", role=ROLE_VIEWER)
    protect(admin, production, allowed_sources=sources(staging))
    through = admin.promote(version(admin, staging), dev)
    assert jane.promote(through, production).version_number == 1
    failure = refusal(jane, version(admin, dev), production)
    assert failure.status is not None
    assert staging.rid.encode() not in failure.status.SerializeToString()
    assert failure.parameters["allowedSources"] == ""
    assert refusal(admin, version(admin, dev), production).parameters["allowedSources"] == f"{staging.rid}:master"


def test_an_import_does_not_lend_another_content_its_way(
    admin: User, registry: Registry, dev: Model, staging: Model, production: Model
) -> None:
    protect(admin, production, allowed_sources=sources(staging))
    tested = version(admin, staging)
    origin = {"modelRid": dev.rid, "source": promoted(tested.rid, staging.rid)}
    import_lines(registry.repository, [line(version_row("other", modelApi=to_json(model_api("other")), **origin))])
    assert refusal(admin, ModelVersion(rid=version_rid("other")), production).name == "SourceNotAllowed"


# Time as head


def test_a_version_waits_until_it_was_a_head_for_long_enough(
    admin: User, clock: Clock, dev: Model, staging: Model, production: Model
) -> None:
    protect(admin, production, allowed_sources=sources(staging), min_time_as_head=Duration(seconds=3600))
    created = version(admin, dev)
    clock.now_ms += HOUR_MS
    source = admin.promote(created, staging)
    clock.now_ms += 1_500

    failure = refusal(admin, source, production)

    assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "SourceTooYoung")
    assert failure.parameters == {
        "modelRid": production.rid,
        "branchName": "master",
        "resourceRid": production.rid,
        "secondsLeft": "3599",
    }
    clock.now_ms += HOUR_MS - 1_501
    assert refusal(admin, source, production).parameters["secondsLeft"] == "1"
    clock.now_ms += 1
    assert admin.promote(source, production).version_number == 1


def test_a_version_that_is_replaced_keeps_the_time_that_it_has_and_gets_no_more(
    admin: User, clock: Clock, staging: Model, production: Model
) -> None:
    protect(admin, production, min_time_as_head=Duration(seconds=3600))
    first = version(admin, staging)
    clock.now_ms += HOUR_MS // 2
    second = version(admin, staging, "other")
    clock.now_ms += HOUR_MS
    assert refusal(admin, first, production).parameters["secondsLeft"] == "1800"
    assert admin.promote(second, production).version_number == 1
    # Back as a head, it goes on from where it was.
    back = admin("RollbackBranch", model_rid=staging.rid, to_version_number=1)
    clock.now_ms += HOUR_MS // 2
    assert admin.promote(back, production).version_number == 2
    assert refusal(admin, first, production).name == "SourceTooYoung"


def test_the_time_on_many_branches_at_once_counts_once(
    admin: User, clock: Clock, dev: Model, staging: Model, production: Model
) -> None:
    protect(admin, production, min_time_as_head=Duration(seconds=3600))
    source = version(admin, dev)
    for number in range(10):
        source = admin.promote(source, staging, branch=f"branch-{number}")
    clock.now_ms += HOUR_MS // 4
    assert refusal(admin, source, production).parameters["secondsLeft"] == "2700"
    clock.now_ms += 3 * HOUR_MS // 4
    assert admin.promote(source, production).version_number == 1


def test_imported_versions_count_from_their_import_whatever_time_they_have(
    admin: User, registry: Registry, clock: Clock, dev: Model, staging: Model, production: Model
) -> None:
    protect(admin, production, min_time_as_head=Duration(seconds=3600))
    rows = [
        version_row("old", modelRid=staging.rid),
        version_row("copy", modelRid=dev.rid, source=promoted(version_rid("old"), staging.rid)),
    ]
    import_lines(registry.repository, [line(row) for row in rows])
    imported = [ModelVersion(rid=version_rid(key)) for key in ("old", "copy")]
    for each in imported:
        assert refusal(admin, each, production).parameters["secondsLeft"] == "3600"
    clock.now_ms += HOUR_MS // 2
    # What replaces it does so when it is imported, and not when it says.
    later = version_row("later", second=1, modelRid=staging.rid, modelApi=to_json(model_api("other")))
    import_lines(registry.repository, [line(later)])
    clock.now_ms += HOUR_MS // 2
    assert refusal(admin, imported[0], production).parameters["secondsLeft"] == "1800"
    assert admin.promote(imported[1], production).version_number == 1


def test_each_level_has_its_own_time(admin: User, clock: Clock, staging: Model, production: Model) -> None:
    protect(admin, production, min_time_as_head=Duration(seconds=60))
    admin("SetFolderBranchPolicy", folder_rid=admin.folder, min_time_as_head=Duration(seconds=120))
    source = version(admin, staging)
    assert refusal(admin, source, production).parameters["resourceRid"] == production.rid
    clock.now_ms += 60_000
    failure = refusal(admin, source, production)
    assert (failure.parameters["resourceRid"], failure.parameters["secondsLeft"]) == (admin.folder, "60")
    clock.now_ms += 60_000
    assert admin.promote(source, production).version_number == 1


def test_a_check_lists_each_rule_that_is_not_met(admin: User, jane: User, dev: Model, production: Model) -> None:
    admin("GrantRole", resource_rid=dev.rid, principal="user:jane", role=ROLE_VIEWER)
    protect(
        admin,
        production,
        allowed_sources=AllowedSources(),
        min_time_as_head=Duration(seconds=60),
        promoters=Principals(principals=["user:joe"]),
    )
    source = version(admin, dev)
    checked = jane("CheckPromotion", **promotion_of(source, production), preview=True)
    assert [obstacle.error_name for obstacle in checked.obstacles] == [
        "PromoteVersionModelPermissionDenied",
        "SourceNotAllowed",
        "SourceTooYoung",
    ]
    assert not checked.would_succeed


def test_a_request_that_is_repeated_is_answered_whatever_policy_came_since(
    admin: User, jane: User, dev: Model, production: Model
) -> None:
    admin("GrantRole", resource_rid=dev.rid, principal="user:jane", role=ROLE_VIEWER)
    source = version(admin, dev)
    request_id = "0d8a3a2e-7f0a-4a5e-8a52-5f1f6f3c1f11"
    made = jane.promote(source, production, request_id=request_id)
    protect(admin, production, allowed_sources=AllowedSources(), promoters=Principals(principals=["user:joe"]))
    assert jane.promote(source, production, request_id=request_id) == made
    assert jane.failure("PromoteVersion", **promotion_of(source, production), preview=True).name == (
        "PromoteVersionModelPermissionDenied"
    )


def test_a_batch_has_no_source_that_it_makes_itself(admin: User, dev: Model, staging: Model, production: Model) -> None:
    protect(admin, production, allowed_sources=sources(staging))
    source = version(admin, dev)
    entries = [promotion_of(source, staging), promotion_of(source, production)]
    failure = admin.failure("BatchPromoteVersions", promotions=entries)
    assert (failure.name, failure.violations[0][0]) == ("SourceNotAllowed", "promotions[1]")
    assert not admin("ListModelVersions", model_rid=staging.rid).model_versions


def test_a_branch_without_such_rules_asks_no_more(admin: User, dev: Model, staging: Model, production: Model) -> None:
    source = version(admin, dev)
    protect(admin, production, promotion_only=True, promoters=Principals(principals=["user:admin"]))
    counts = []
    for target in (staging, production):
        admin.promote(source, target)
        with statements() as sent:
            admin.promote(source, target)
        counts.append(len(sent))
    assert counts[0] == counts[1]


# Promoters


def test_promoters_are_named_users_and_groups_beside_their_role(
    admin: User, registry: Registry, dev: Model, production: Model
) -> None:
    source = version(admin, dev)
    for model, role in ((dev, ROLE_VIEWER), (production, ROLE_OWNER)):
        for principal in ("user:jane", "user:joe", "group:release"):
            admin("GrantRole", resource_rid=model.rid, principal=principal, role=role)
    protect(admin, production, promoters=Principals(principals=["user:joe", "group:release", "user:ann"]))
    jane, joe, released = registry.user("jane"), registry.user("joe"), registry.user("jane", "release")
    failure = refusal(jane, source, production)
    assert (failure.name, failure.parameters) == ("PromoteVersionModelPermissionDenied", {"modelRid": production.rid})
    for user in (joe, released, admin):
        user.promote(source, production)
    # To be named gives no role.
    admin("GrantRole", resource_rid=production.rid, principal="user:ann", role=ROLE_VIEWER)
    assert registry.user("ann").failure("PromoteVersion", **promotion_of(source, production), preview=True).name == (
        "PromoteVersionModelPermissionDenied"
    )
    # It holds for promotions.
    assert version(jane, production).version_number == 4


def test_to_whom_may_not_promote_nothing_else_is_told(
    admin: User, jane: User, dev: Model, staging: Model, production: Model
) -> None:
    """Be the source there or not, and from wherever it is."""
    admin("GrantRole", resource_rid=staging.rid, principal="user:jane", role=ROLE_VIEWER)
    protect(
        admin,
        production,
        promoters=Principals(principals=["user:joe"]),
        allowed_sources=sources(staging),
        min_time_as_head=Duration(seconds=60),
    )
    admin("LockBranch", model_rid=production.rid, reason="incident 42")
    versions = [version(admin, model).rid for model in (staging, dev)]
    versions.append("ri.models.main.model-version.99999999-9999-4999-8999-999999999999")
    request = {"model_rid": production.rid, "preview": True, "expected_head_version_rid": versions[0]}
    answers = {normalised(jane, "PromoteVersion", {}, source_model_version_rid=rid, **request) for rid in versions}
    assert len(answers) == 1


def test_an_invisible_source_is_told_of_like_an_absent_one_by_protected_branches(
    admin: User, jane: User, dev: Model, staging: Model, production: Model
) -> None:
    protect(admin, production, allowed_sources=sources(staging), min_time_as_head=Duration(seconds=60))
    absent = "ri.models.main.model-version.99999999-9999-4999-8999-999999999999"
    request = {"model_rid": production.rid, "preview": True}
    answers = {
        normalised(jane, "PromoteVersion", {rid: absent}, source_model_version_rid=rid, **request)
        for rid in (version(admin, dev).rid, version(admin, staging).rid, absent)
    }
    assert len(answers) == 1


# Rollbacks


def roll_back(user: User, model: Model, number: int, **fields: Any) -> ModelVersion:
    made: ModelVersion = user("RollbackBranch", model_rid=model.rid, to_version_number=number, **fields)
    return made


def test_owners_roll_protected_branches_back_and_promoters_all_others(
    admin: User, registry: Registry, production: Model
) -> None:
    for label in ("a", "b"):
        version(admin, production, label)
    admin("GrantRole", resource_rid=production.rid, principal="user:joe", role=ROLE_EDITOR)
    joe, jane = registry.user("joe"), registry.user("jane")
    request = {"model_rid": production.rid, "to_version_number": 1, "reason": "slow"}
    # Compatibility is no rule of who decides.
    protect(admin, production, compatibility=COMPATIBILITY_MODE_ENFORCE)
    assert joe("RollbackBranch", **request).version_number == 3
    number = 3
    for rules in (
        {"promotion_only": True},
        {"allowed_sources": AllowedSources()},
        {"min_time_as_head": Duration(seconds=1)},
        {"promoters": Principals(principals=["user:joe"])},
        {"approvals": ApprovalRule(required=1, approvers=["group:risk"])},
    ):
        protect(admin, production, **rules)
        failure = joe.failure("RollbackBranch", **request)
        assert (failure.name, failure.parameters) == (
            "PromoteVersionModelPermissionDenied",
            {"modelRid": production.rid},
        )
        number += 1
        assert jane("RollbackBranch", **request).version_number == number
        if "approvals" in rules:
            weaken_policy(registry, admin, model_rid=production.rid, clear_fields=[*rules])
        else:
            protect(admin, production, clear_fields=[*rules])
    admin("LockBranch", model_rid=production.rid, reason="incident 42")
    assert joe.failure("RollbackBranch", **request).name == "PromoteVersionModelPermissionDenied"
    assert jane("RollbackBranch", **request).version_number == number + 1
    admin("UnlockBranch", model_rid=production.rid)
    admin("SetFolderBranchPolicy", folder_rid=admin.folder, promotion_only=True)
    assert joe.failure("RollbackBranch", **request).name == "PromoteVersionModelPermissionDenied"


def test_rollbackers_are_named_beside_their_role(admin: User, registry: Registry, production: Model) -> None:
    for label in ("a", "b"):
        version(admin, production, label)
    admin("GrantRole", resource_rid=production.rid, principal="user:joe", role=ROLE_PROMOTER)
    protect(admin, production, promotion_only=True, rollbackers=Principals(principals=["user:joe", "user:ann"]))
    request = {"model_rid": production.rid, "to_version_number": 1}
    joe, jane, ann = (registry.user(name) for name in ("joe", "jane", "ann"))
    assert joe("RollbackBranch", **request).version_number == 3
    assert jane.failure("RollbackBranch", **request).name == "PromoteVersionModelPermissionDenied"
    assert ann.failure("RollbackBranch", **request).name == "ModelNotFound"
    admin("SetFolderBranchPolicy", folder_rid=admin.folder, rollbackers=Principals(principals=["user:ann"]))
    assert joe.failure("RollbackBranch", **request).name == "PromoteVersionModelPermissionDenied"
    assert admin("RollbackBranch", **request).version_number == 4


def test_a_protected_branch_does_not_go_back_to_what_it_was_rolled_back_from(
    admin: User, jane: User, dev: Model, production: Model
) -> None:
    for label in "abc":
        admin.promote(version(admin, dev, label), production)
    protect(admin, production, promotion_only=True, compatibility=COMPATIBILITY_MODE_OFF)
    assert roll_back(jane, production, 1).version_number == 4

    for number in (2, 3):
        request = {"model_rid": production.rid, "to_version_number": number, "reason": "it was good"}
        failure = jane.failure("RollbackBranch", **request)
        assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "VersionRolledBack")
        assert failure.parameters == {
            "modelRid": production.rid,
            "branchName": "master",
            "versionNumber": str(number),
        }
    # What it went back to is not among them, be it under this number or that.
    admin.promote(version(admin, dev, "d"), production)
    assert roll_back(jane, production, 4).version_number == 6
    assert jane.failure("RollbackBranch", model_rid=production.rid, to_version_number=5).name == "VersionRolledBack"
    admin.promote(version(admin, dev, "e"), production)
    assert roll_back(jane, production, 1).version_number == 8
    # Promoted again, it has been looked at again.
    again = admin.promote(version(admin, dev, "c"), production)
    admin.promote(version(admin, dev, "f"), production)
    assert roll_back(jane, production, again.version_number).version_number == 11
    assert jane.failure("RollbackBranch", model_rid=production.rid, to_version_number=2).name == "VersionRolledBack"


def test_nor_to_an_older_version_of_equal_content(admin: User, jane: User, dev: Model, production: Model) -> None:
    for label in "aba":
        admin.promote(version(admin, dev, label), production)
    protect(admin, production, promotion_only=True, compatibility=COMPATIBILITY_MODE_OFF)
    assert roll_back(jane, production, 2).version_number == 4
    assert jane.failure("RollbackBranch", model_rid=production.rid, to_version_number=1).name == "VersionRolledBack"


def test_what_was_rolled_back_from_before_the_branch_was_protected_counts_too(
    admin: User, jane: User, dev: Model, production: Model
) -> None:
    """So does what a rule refused that was taken away, and set again."""
    for label in "ab":
        admin.promote(version(admin, dev, label), production)
    roll_back(jane, production, 1)
    request = {"model_rid": production.rid, "to_version_number": 2, "reason": "it was good"}
    admin("LockBranch", model_rid=production.rid, reason="incident 42")
    assert jane.failure("RollbackBranch", **request).name == "VersionRolledBack"
    admin("UnlockBranch", model_rid=production.rid)
    assert jane("RollbackBranch", **request).version_number == 4
    protect(admin, production, promotion_only=True)
    assert jane.failure("RollbackBranch", **request).name == "VersionRolledBack"


def test_an_owner_has_it_back_by_override_with_a_reason_and_the_record_says_so(
    admin: User, registry: Registry, jane: User, dev: Model, production: Model
) -> None:
    for label in "ab":
        admin.promote(version(admin, dev, label), production)
    everyone = Principals(principals=["user:joe", "user:jane"])
    protect(admin, production, promotion_only=True, compatibility=COMPATIBILITY_MODE_OFF, rollbackers=everyone)
    admin("GrantRole", resource_rid=production.rid, principal="user:joe", role=ROLE_EDITOR)
    joe = registry.user("joe")
    roll_back(joe, production, 1)
    request = {"model_rid": production.rid, "to_version_number": 2, "override": True}

    assert joe.failure("RollbackBranch", **request, reason="mine").name == "PromoteVersionModelPermissionDenied"
    assert jane.failure("RollbackBranch", **request).name == "VersionRolledBack"
    back = jane("RollbackBranch", **request, reason="the other one is worse")

    [record] = jane("ListPromotions", model_version_rid=back.rid).promotions
    assert (record.override, record.reason, record.policy_revision) == (True, "the other one is worse", 1)
    # It is taken in again, and so is gone back to like others; and what it replaced was no newer one.
    admin.promote(version(admin, dev, "c"), production)
    assert roll_back(joe, production, 2).version_number == 6
    assert roll_back(joe, production, 1).version_number == 7
    assert joe.failure("RollbackBranch", model_rid=production.rid, to_version_number=4).name == "VersionRolledBack"
    # Where none was needed, the record says of none.
    unneeded = jane("RollbackBranch", model_rid=production.rid, to_version_number=3, override=True, reason="why not")
    [record] = jane("ListPromotions", model_version_rid=unneeded.rid).promotions
    assert not record.override


def test_an_override_is_no_way_past_rollbackers(admin: User, jane: User, dev: Model, production: Model) -> None:
    for label in "ab":
        admin.promote(version(admin, dev, label), production)
    protect(admin, production, rollbackers=Principals(principals=["user:joe"]))
    request = {"model_rid": production.rid, "to_version_number": 1, "override": True, "reason": "mine"}
    assert jane.failure("RollbackBranch", **request).name == "PromoteVersionModelPermissionDenied"


# Setting such rules


def test_to_name_an_invisible_source_is_to_name_an_absent_one(admin: User, jane: User, production: Model) -> None:
    secret = admin.create_model("secret")
    request = {"model_rid": production.rid}
    invisible, absent = (
        normalised(
            jane,
            "SetBranchPolicy",
            {rid: ABSENT_MODEL},
            **request,
            allowed_sources=AllowedSources(sources=[AllowedSource(model_rid=rid)]),
        )
        for rid in (secret.rid, ABSENT_MODEL)
    )
    assert invisible == absent
    failure = jane.failure("SetBranchPolicy", **request, allowed_sources=sources(secret))
    assert (failure.name, failure.parameters) == ("ModelNotFound", {"modelRid": secret.rid})
    assert jane("GetBranchPolicy", **request).revision == 0


def test_sources_that_the_reader_may_not_see_are_counted_and_not_told(
    admin: User, jane: User, dev: Model, staging: Model, production: Model
) -> None:
    admin("GrantRole", resource_rid=dev.rid, principal="user:jane", role=ROLE_VIEWER)
    whole = protect(admin, production, allowed_sources=sources(staging, dev)).allowed_sources
    of_folder = admin("SetFolderBranchPolicy", folder_rid=admin.folder, allowed_sources=sources(staging))
    assert (len(whole.sources), whole.hidden_count) == (2, 0)
    assert (len(of_folder.allowed_sources.sources), of_folder.allowed_sources.hidden_count) == (1, 0)
    seen = sources(dev)
    seen.hidden_count = 1
    rid = production.rid

    got = jane("GetBranchPolicy", model_rid=rid)

    assert got.allowed_sources == seen
    assert got.folder_policy.allowed_sources == AllowedSources(hidden_count=1)
    [listed] = jane("ListBranchPolicyRevisions", model_rid=rid).policies
    assert listed.allowed_sources == seen
    assert jane("LockBranch", model_rid=rid, reason="incident 42").allowed_sources == seen
    assert jane("UnlockBranch", model_rid=rid).allowed_sources == seen
    # What is not seen stays, too.
    assert jane("SetBranchPolicy", model_rid=rid, promotion_only=True).allowed_sources == seen
    assert admin("GetBranchPolicy", model_rid=rid).allowed_sources == whole
    admin("RevokeRole", resource_rid=dev.rid, principal="user:jane")
    assert jane("GetBranchPolicy", model_rid=rid).allowed_sources == AllowedSources(hidden_count=2)


def test_so_they_are_in_policies_of_folders(admin: User, jane: User, dev: Model) -> None:
    admin("GrantRole", resource_rid=admin.folder, principal="user:jane", role=ROLE_OWNER)
    secret = admin.create_model("secret", new_folder_rid())
    admin("SetFolderBranchPolicy", folder_rid=admin.folder, allowed_sources=sources(secret, dev))
    seen = sources(dev)
    seen.hidden_count = 1
    assert jane("GetFolderBranchPolicy", folder_rid=admin.folder).allowed_sources == seen
    [listed] = jane("ListFolderBranchPolicyRevisions", folder_rid=admin.folder).policies
    assert listed.allowed_sources == seen
    changed = jane("SetFolderBranchPolicy", folder_rid=admin.folder, promotion_only=True)
    assert (changed.allowed_sources, changed.revision) == (seen, 2)
    # To send back what was read would take the place of what it hides.
    failure = jane.failure("SetFolderBranchPolicy", folder_rid=admin.folder, allowed_sources=seen)
    assert [field for field, _ in failure.violations] == ["allowed_sources.hidden_count"]


def test_a_source_without_rules_of_its_own_is_warned_of(
    admin: User, dev: Model, staging: Model, production: Model
) -> None:
    protect(admin, staging, promotion_only=True)
    policy = protect(admin, production, promotion_only=True, allowed_sources=sources(staging, dev))
    [warning] = policy.warnings
    assert dev.rid in warning
    assert staging.rid not in warning
    assert not admin("GetBranchPolicy", model_rid=production.rid).warnings
    assert not protect(admin, production, compatibility=COMPATIBILITY_MODE_OFF).warnings
    admin("SetFolderBranchPolicy", folder_rid=admin.folder, promotion_only=True)
    assert not protect(admin, production, allowed_sources=sources(staging, dev)).warnings


def test_rules_that_created_versions_go_past_are_warned_of(admin: User, staging: Model, production: Model) -> None:
    protect(admin, staging, promotion_only=True)
    [warning] = protect(admin, production, allowed_sources=sources(staging)).warnings
    assert warning.startswith("allowed_sources: CreateModelVersion goes past")
    assert not protect(admin, production, promotion_only=True).warnings
    assert protect(admin, production, promotion_only=False).warnings
    admin("SetFolderBranchPolicy", folder_rid=admin.folder, promotion_only=True)
    assert not protect(admin, production, promotion_only=False).warnings
    [warning] = protect(
        admin, production, clear_fields=["allowed_sources"], min_time_as_head=Duration(seconds=1)
    ).warnings
    assert warning == "min_time_as_head: time on any branch counts, unless allowed_sources names some."


@pytest.mark.parametrize(
    ("approvers", "is_refused"),
    [
        (["user:jane"], True),
        (["user:jane", "user:jane"], True),
        (["user:jane", "user:joe"], False),
        (["group:risk"], False),
    ],
)
def test_approvals_that_nobody_could_give_are_refused(
    admin: User, production: Model, approvers: list[str], is_refused: bool
) -> None:
    request = {"model_rid": production.rid, "approvals": ApprovalRule(required=2, approvers=approvers)}
    if is_refused:
        failure = admin.failure("SetBranchPolicy", **request)
        assert (failure.name, [field for field, _ in failure.violations]) == ("InvalidArgument", ["approvals.required"])
        assert admin("GetBranchPolicy", model_rid=production.rid).revision == 0
    else:
        assert admin("SetBranchPolicy", **request).revision == 1
