"""Recalls: versions that are yanked, what that stops, who may say so, and whom it is told."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_PROMOTER, ROLE_VIEWER, Role
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_ROLLBACK
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_LINEAGE, YANK_SCOPE_VERSION, Yank, YankScope
from tests import builders
from tests.rpc.harness import SOME_MODEL, SOME_VERSION, Failure, Registry, User

pytestmark = pytest.mark.database("shared")


def yank(user: User, version: ModelVersion, scope: YankScope.ValueType = YANK_SCOPE_VERSION, **fields: Any) -> Yank:
    request = {"model_rid": version.model_rid, "model_version_rid": version.rid, "scope": scope, "reason": "poisoned"}
    yanked: Yank = user("YankVersion", **request | fields)
    return yanked


def refused(user: User, source: ModelVersion, target: Model, branch: str = "master") -> list[Failure]:
    """How the promotion of a version fails, whichever way it is asked for."""
    promotion = {"model_rid": target.rid, "source_model_version_rid": source.rid, "branch": branch}
    checked = user("CheckPromotion", **promotion, preview=True)
    one = user.failure("PromoteVersion", **promotion, preview=True)
    assert [(each.error_name, dict(each.parameters)) for each in checked.obstacles] == [(one.name, one.parameters)]
    assert not checked.would_succeed
    batch = user.failure("BatchPromoteVersions", promotions=[promotion])
    assert batch.violations[0][0] == "promotions[0]"
    return [one, batch]


def is_yanked(user: User, version: ModelVersion) -> set[bool]:
    """What each RPC says of a version, which is the head of its branch."""
    model_rid, branch = version.model_rid, version.branch
    versions = [
        user("GetModelVersion", model_rid=model_rid, model_version_rid=version.rid),
        user("GetBranch", model_rid=model_rid, branch=branch).head,
        *(each.head for each in user("ListBranches", model_rid=model_rid).branches if each.name == branch),
        *user("ListModelVersions", model_rid=model_rid, branch=branch).model_versions[:1],
    ]
    assert [each.rid for each in versions] == [version.rid] * 4
    return {each.yanked for each in versions}


class Line:
    """A root, what was promoted from it, and from that, on a model each; and one more promotion of the root."""

    def __init__(self, admin: User) -> None:
        names = ("research", "staging", "production", "other")
        self.research, self.staging, self.production, self.other = map(admin.create_model, names)
        self.root = admin.create_version(self.research)
        self.staged = admin.promote(self.root, self.staging)
        self.live = admin.promote(self.staged, self.production)
        self.aside = admin.promote(self.root, self.other)

    def all(self) -> list[ModelVersion]:
        return [self.root, self.staged, self.live, self.aside]


@pytest.fixture
def line(admin: User) -> Line:
    return Line(admin)


def test_what_is_yanked_and_what_was_promoted_from_it_is_promoted_no_more(admin: User, line: Line) -> None:
    target = admin.create_model("target")
    yanked = yank(admin, line.staged)
    for version in (line.staged, line.live):
        for failure in refused(admin, version, target):
            assert (failure.code.name, failure.name) == ("FAILED_PRECONDITION", "VersionYanked")
            assert failure.parameters == {
                "modelVersionRid": version.rid,
                "yankRid": yanked.rid,
                "yankedVersionRid": line.staged.rid,
                "yankedBy": "user:admin",
                "reason": "poisoned",
            }
        assert is_yanked(admin, version) == {True}
    for version in (line.root, line.aside):
        assert is_yanked(admin, version) == {False}
        assert not admin.promote(version, target).yanked


def test_a_yanked_lineage_is_all_that_came_of_its_root(admin: User, line: Line) -> None:
    target = admin.create_model("target")
    yank(admin, line.staged, YANK_SCOPE_LINEAGE)
    for version in line.all():
        assert {failure.name for failure in refused(admin, version, target)} == {"VersionYanked"}
        assert is_yanked(admin, version) == {True}
    unrelated = admin.create_version(target)
    assert is_yanked(admin, unrelated) == {False}
    admin.promote(unrelated, target, branch="other")


def test_branches_do_not_go_back_to_what_is_yanked_but_away_from_it(admin: User) -> None:
    model = admin.create_model("model")
    first, second = admin.create_version(model), admin.create_version(model)
    yank(admin, second)
    admin("RollbackBranch", model_rid=model.rid, to_version_number=1)
    failure = admin.failure("RollbackBranch", model_rid=model.rid, to_version_number=2)
    assert (failure.name, failure.parameters["modelVersionRid"]) == ("VersionYanked", second.rid)
    yank(admin, first)
    # The third is the first again.
    failure = admin.failure("RollbackBranch", model_rid=model.rid, to_version_number=1)
    assert (failure.name, failure.parameters["modelVersionRid"]) == ("VersionYanked", first.rid)
    listed = admin("ListModelVersions", model_rid=model.rid).model_versions
    assert [each.yanked for each in listed] == [True, True, True]


def test_a_yank_is_taken_back_and_others_hold(admin: User, line: Line) -> None:
    first, second = yank(admin, line.root), yank(admin, line.staged, YANK_SCOPE_LINEAGE, reason="a licence")
    taken_back = admin("UnyankVersion", yank_rid=first.rid, reason="a false alarm")
    assert (taken_back.unyanked_by, taken_back.unyank_reason) == ("user:admin", "a false alarm")
    assert taken_back.HasField("unyanked_time")
    [failure, _] = refused(admin, line.live, admin.create_model("target"))
    assert (failure.parameters["yankRid"], failure.parameters["reason"]) == (second.rid, "a licence")
    # Nothing is changed by a repetition, whoever makes it, and whatever the reason.
    assert admin("UnyankVersion", yank_rid=first.rid, reason="again") == taken_back
    admin("UnyankVersion", yank_rid=second.rid)
    target = admin.create_model("another target")
    for version in line.all():
        assert is_yanked(admin, version) == {False}
        admin.promote(version, target)
    listed = admin("ListYanks", model_version_rid=line.live.rid).yanks
    assert [(each.rid, each.HasField("unyanked_by")) for each in listed] == [(second.rid, True), (first.rid, True)]
    assert listed[1] == taken_back
    yank(admin, line.root)
    assert is_yanked(admin, line.root) == {True}


def test_a_request_that_was_carried_out_gets_its_answer_whatever_is_yanked_since(admin: User, line: Line) -> None:
    request_id = str(uuid.uuid4())
    promoted = admin.promote(line.staged, line.other, request_id=request_id)
    yank(admin, line.staged)
    repeated = admin.promote(line.staged, line.other, request_id=request_id)
    assert (promoted.rid, promoted.yanked, repeated.rid, repeated.yanked) == (repeated.rid, False, promoted.rid, True)


def test_editors_yank_versions_and_owners_of_the_root_lineages(admin: User, jane: User, line: Line) -> None:
    def grant(model: Model, role: Role.ValueType) -> None:
        admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=role)

    def denied(scope: YankScope.ValueType) -> bool:
        request = {"model_rid": line.staging.rid, "model_version_rid": line.staged.rid, "reason": "poisoned"}
        failure = jane.failure("YankVersion", **request, scope=scope)
        # Nothing of the root is told, which jane may not see.
        expected = ("RecallPermissionDenied", {"modelRid": line.staging.rid})
        return (failure.code.name, (failure.name, failure.parameters)) == ("PERMISSION_DENIED", expected)

    grant(line.staging, ROLE_PROMOTER)
    assert denied(YANK_SCOPE_VERSION)
    assert denied(YANK_SCOPE_LINEAGE)
    grant(line.staging, ROLE_EDITOR)
    of_version = yank(jane, line.staged)
    assert (of_version.yanked_by, of_version.model_rid) == ("user:jane", line.staging.rid)
    grant(line.staging, ROLE_OWNER)
    assert denied(YANK_SCOPE_LINEAGE)
    grant(line.research, ROLE_EDITOR)
    assert denied(YANK_SCOPE_LINEAGE)
    grant(line.research, ROLE_OWNER)
    of_lineage = yank(jane, line.staged, YANK_SCOPE_LINEAGE)

    grant(line.research, ROLE_EDITOR)
    grant(line.staging, ROLE_EDITOR)
    for each in (of_version, of_lineage):
        failure = jane.failure("UnyankVersion", yank_rid=each.rid)
        assert (failure.name, failure.parameters) == ("RecallPermissionDenied", {"modelRid": line.staging.rid})
    grant(line.staging, ROLE_OWNER)
    assert jane("UnyankVersion", yank_rid=of_version.rid).unyanked_by == "user:jane"
    assert jane.failure("UnyankVersion", yank_rid=of_lineage.rid).name == "RecallPermissionDenied"
    grant(line.research, ROLE_OWNER)
    assert jane("UnyankVersion", yank_rid=of_lineage.rid).unyanked_by == "user:jane"


def test_who_may_not_see_what_was_yanked_learns_that_a_version_is_and_nothing_else(
    admin: User, jane: User, line: Line
) -> None:
    admin("GrantRole", resource_rid=line.production.rid, principal="user:jane", role=ROLE_PROMOTER)
    yanked = [yank(admin, line.staged), yank(admin, line.root, YANK_SCOPE_LINEAGE)]
    assert is_yanked(jane, line.live) == {True}
    nothing = {"yankRid": "", "yankedVersionRid": "", "yankedBy": "", "reason": ""}
    for failure in refused(jane, line.live, line.production):
        assert failure.parameters == {"modelVersionRid": line.live.rid, **nothing}
        for each in yanked:
            assert each.rid not in failure.message
    assert not jane("ListYanks", model_version_rid=line.live.rid).yanks
    admin("GrantRole", resource_rid=line.staging.rid, principal="user:jane", role=ROLE_VIEWER)
    [failure, _] = refused(jane, line.live, line.production)
    assert (failure.parameters["yankRid"], failure.parameters["yankedBy"]) == (yanked[0].rid, "user:admin")
    assert list(jane("ListYanks", model_version_rid=line.live.rid).yanks) == yanked[:1]


def test_a_version_of_another_model_is_not_found(admin: User, line: Line) -> None:
    request = {"model_rid": line.other.rid, "model_version_rid": line.staged.rid, "reason": "poisoned"}
    failure = admin.failure("YankVersion", **request, scope=YANK_SCOPE_VERSION)
    expected = {"modelRid": line.other.rid, "modelVersionRid": line.staged.rid}
    assert (failure.name, failure.parameters) == ("ModelVersionNotFound", expected)


def test_a_yank_without_a_scope_or_a_reason_is_refused(admin: User, line: Line) -> None:
    request = {"model_rid": line.staging.rid, "model_version_rid": line.staged.rid}
    failure = admin.failure("YankVersion", **request)
    assert failure.name == "InvalidArgument"
    assert [field for field, _ in failure.violations] == ["scope", "reason"]


def test_a_version_whose_source_cannot_be_told_is_yanked_too(admin: User, registry: Registry, line: Line) -> None:
    legacy = builders.append(registry.repository, builders.version(line.other.rid), '{"type":"foundryMl"}')
    yanked = yank(admin, legacy)
    promotion = {"model_rid": line.other.rid, "source_model_version_rid": legacy.rid, "preview": True}
    checked = admin("CheckPromotion", **promotion)
    assert [each.error_name for each in checked.obstacles] == ["UnsupportedModelSource", "VersionYanked"]
    assert admin("GetBranch", model_rid=line.other.rid).head.yanked
    admin("UnyankVersion", yank_rid=yanked.rid)
    assert not admin("GetBranch", model_rid=line.other.rid).head.yanked


def test_the_same_request_yanks_once(admin: User, line: Line) -> None:
    request_id = str(uuid.uuid4())
    first = yank(admin, line.staged, request_id=request_id)
    assert yank(admin, line.staged, request_id=request_id.upper()) == first
    other = {"model_rid": line.staging.rid, "model_version_rid": line.staged.rid, "request_id": request_id}
    failure = admin.failure("YankVersion", **other, scope=YANK_SCOPE_LINEAGE, reason="poisoned")
    assert (failure.code.name, failure.name) == ("ALREADY_EXISTS", "RequestIdAlreadyUsed")
    taken_back = admin("UnyankVersion", yank_rid=first.rid)
    # Also the answer of now.
    assert yank(admin, line.staged, request_id=request_id) == taken_back
    assert not admin("GetModelVersion", model_rid=line.staging.rid, model_version_rid=line.staged.rid).yanked
    # What failed can be tried again under its id.
    request_id = str(uuid.uuid4())
    absent = {**other, "model_version_rid": SOME_VERSION, "request_id": request_id}
    assert admin.failure("YankVersion", **absent, scope=YANK_SCOPE_VERSION, reason="x").name == "ModelVersionNotFound"
    yank(admin, line.staged, request_id=request_id)


def test_a_yank_is_taken_back_by_many_at_once_once(admin: User, line: Line) -> None:
    yanked = yank(admin, line.staged)
    reasons = [f"reason {number}" for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda why: admin("UnyankVersion", yank_rid=yanked.rid, reason=why), reasons))
    assert answers[0].unyank_reason in reasons
    assert answers == [answers[0]] * 8


# Live copies


def test_live_copies_are_listed_page_by_page(admin: User, jane: User, line: Line) -> None:
    def pages(user: User, page_size: int) -> list[Any]:
        found, token = [], None
        while True:
            request = {"model_version_rid": line.root.rid, "page_size": page_size, "page_token": token}
            found.append(user("ListLiveCopies", **request))
            if not found[-1].HasField("next_page_token"):
                return found
            token = found[-1].next_page_token

    [whole] = pages(admin, 0)
    assert [each.model_version_rid for each in whole.live_copies] == [version.rid for version in line.all()]
    assert whole.total_count == 4
    paged = pages(admin, 3)
    assert [each for page in paged for each in page.live_copies] == list(whole.live_copies)
    assert [page.HasField("total_count") for page in paged] == [True, False]

    for model in (line.research, line.production):
        admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_VIEWER)
    seen = pages(jane, 1)
    assert [[each.model_rid for each in page.live_copies] for page in seen] == [
        [line.research.rid],
        [line.production.rid],
    ]
    assert not any(page.HasField("total_count") for page in seen)
    token = seen[0].next_page_token
    failure = jane.failure("ListLiveCopies", model_version_rid=line.live.rid, page_token=token)
    assert failure.name == "InvalidPageToken"


# Rolling many branches back


@dataclass
class Incident:
    """Branches whose second version came of what was yanked."""

    models: list[Model]
    heads: list[ModelVersion]
    yanked: ModelVersion

    def rollbacks(self, **more: Any) -> list[dict[str, Any]]:
        return [{"model_rid": model.rid, "to_version_number": 1, **more} for model in self.models]

    def numbers(self, user: User) -> list[int]:
        return [user("GetBranch", model_rid=model.rid).version_count for model in self.models]


@pytest.fixture
def incident(admin: User) -> Incident:
    models = [admin.create_model(f"model {number}") for number in range(3)]
    good = admin.create_version(models[0], branch="good")
    yanked = admin.create_version(models[0], branch="poisoned")
    heads = []
    for model in models:
        admin.promote(good, model)
        heads.append(admin.promote(yanked, model))
    yank(admin, yanked)
    return Incident(models, heads, yanked)


def test_branches_are_rolled_back_together(admin: User, incident: Incident) -> None:
    expected = [{**each, "reason": "poisoned"} for each in incident.rollbacks()]
    for entry, head in zip(expected, incident.heads, strict=True):
        entry["expected_head_version_rid"] = head.rid
    answer = admin("BatchRollback", rollbacks=expected)
    assert incident.numbers(admin) == [3, 3, 3]
    for made, model, replaced in zip(answer.rolled_back, incident.models, incident.heads, strict=True):
        assert (made.model_rid, made.branch, made.version_number) == (model.rid, "master", 3)
        record = admin("GetPromotion", promotion_rid=made.promotion_rid)
        assert (record.kind, record.reason) == (PROMOTION_KIND_ROLLBACK, "poisoned")
        assert record.replaced_version_rid == replaced.rid
        assert is_yanked(admin, admin("GetBranch", model_rid=model.rid).head) == {False}
    [copy] = admin("ListLiveCopies", model_version_rid=incident.yanked.rid).live_copies
    assert copy.branch == "poisoned"


def test_all_branches_are_rolled_back_or_none(admin: User, jane: User, incident: Incident) -> None:
    absent = {"model_rid": SOME_MODEL, "to_version_number": 1}
    for entry, name in (
        ({"to_version_number": 2}, "VersionYanked"),
        ({"to_version_number": 7}, "VersionNumberNotFound"),
        ({"to_version_number": 1, "branch": "nope"}, "BranchNotFound"),
        ({"to_version_number": 1, "expected_head_version_rid": incident.yanked.rid}, "BranchHeadChanged"),
        (absent, "ModelNotFound"),
    ):
        wrong = {"model_rid": incident.models[1].rid} | entry
        first, _, third = incident.rollbacks()
        failure = admin.failure("BatchRollback", rollbacks=[first, third, wrong])
        assert failure.name == name
        assert failure.violations[0][0] == "rollbacks[2]", name
        assert incident.numbers(admin) == [2, 2, 2]
    for model in incident.models[:2]:
        admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_PROMOTER)
    admin("GrantRole", resource_rid=incident.models[2].rid, principal="user:jane", role=ROLE_VIEWER)
    failure = jane.failure("BatchRollback", rollbacks=incident.rollbacks())
    assert failure.name == "PromoteVersionModelPermissionDenied"
    assert failure.violations[0][0] == "rollbacks[2]"
    assert incident.numbers(admin) == [2, 2, 2]


def test_a_locked_branch_is_rolled_back_with_a_reason(admin: User, incident: Incident) -> None:
    admin("LockBranch", model_rid=incident.models[1].rid, reason="incident 42")
    failure = admin.failure("BatchRollback", rollbacks=incident.rollbacks())
    assert (failure.name, failure.violations[0][0]) == ("BranchLocked", "rollbacks[1]")
    admin("BatchRollback", rollbacks=incident.rollbacks(reason="poisoned"))
    assert incident.numbers(admin) == [3, 3, 3]


def test_the_same_request_rolls_back_once(admin: User, incident: Incident) -> None:
    request_id = str(uuid.uuid4())
    first = admin("BatchRollback", rollbacks=incident.rollbacks(), request_id=request_id)
    assert admin("BatchRollback", rollbacks=incident.rollbacks(branch="master"), request_id=request_id) == first
    failure = admin.failure("BatchRollback", rollbacks=incident.rollbacks()[:2], request_id=request_id)
    assert failure.name == "RequestIdAlreadyUsed"
    assert incident.numbers(admin) == [3, 3, 3]


def test_an_owner_has_a_rollback_pass_a_yank_and_it_is_on_record(admin: User, jane: User) -> None:
    model = admin.create_model("model")
    first = admin.create_version(model)
    admin.create_version(model)
    admin("GrantRole", resource_rid=model.rid, principal="user:jane", role=ROLE_PROMOTER)
    yank(admin, first)
    request = {"model_rid": model.rid, "to_version_number": 1, "reason": "nothing else runs"}
    assert admin.failure("RollbackBranch", **request).name == "VersionYanked"
    assert admin.failure("RollbackBranch", **request | {"reason": None}, override=True).name == "VersionYanked"
    assert jane.failure("RollbackBranch", **request, override=True).name == "PromoteVersionModelPermissionDenied"

    version = admin("RollbackBranch", **request, override=True)

    assert version.yanked
    [record] = admin("ListPromotions", model_version_rid=version.rid).promotions
    assert (record.override, record.reason) == (True, "nothing else runs")
    assert admin.failure("BatchRollback", rollbacks=[request]).name == "VersionYanked"
    [again] = admin("BatchRollback", rollbacks=[request | {"override": True}]).rolled_back
    assert again.version_number == 4


def test_a_batch_rolls_a_branch_back_once(admin: User) -> None:
    """The second rollback could bring back what the first one has left."""
    model = admin.create_model("model")
    for _ in range(3):
        admin.create_version(model)
    first = {"model_rid": model.rid, "to_version_number": 1}
    entries = [first, first | {"branch": "master", "to_version_number": 2}]

    failure = admin.failure("BatchRollback", rollbacks=entries)

    assert (failure.name, failure.violations[0][0]) == ("InvalidArgument", "rollbacks[1]")
    assert admin("GetBranch", model_rid=model.rid).version_count == 3
