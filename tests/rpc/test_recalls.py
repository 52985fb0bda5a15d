"""Recalls: versions that are yanked, what that stops, who may say so, and whom it is told."""

from __future__ import annotations

from typing import Any

import pytest

from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_LINEAGE, YANK_SCOPE_VERSION, Yank, YankScope
from tests.rpc.harness import Failure, User

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
