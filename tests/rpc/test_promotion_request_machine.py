"""Whatever becomes of requests and policies in whatever order, they stand as a small reference says. Time aside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF
from modelregistry.v1.promotion_pb2 import ApprovalRule
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_KIND_PROMOTION,
    REVIEW_VERDICT_APPROVE,
    REVIEW_VERDICT_REJECT,
    PromotionRequestState,
)
from tests.builders import model_api, new_folder_rid
from tests.rpc.approving import weaken_policy
from tests.rpc.harness import Registry, failure_of

RUNS = settings(max_examples=30, stateful_step_count=50, phases=[Phase.reuse, Phase.generate, Phase.shrink])

# By name, the groups of each; the maker created the sources, and two may promote.
PEOPLE = {
    "maker": ("risk",),
    "asker": (),
    "other": ("risk",),
    "ann": ("risk",),
    "bob": ("risk", "safety"),
    "cid": ("safety",),
}
PROMOTERS = ("asker", "other")
APPROVERS = [("group:risk",), ("group:safety",), ("user:ann", "group:safety"), ("user:ann", "user:bob", "user:asker")]
BRANCHES = ["master", "release"]
SOURCES = [0, 1]

# Mostly those who can do what a rule is about, so that runs get somewhere.
people = st.sampled_from([*PEOPLE])
promoters = st.one_of(st.sampled_from(PROMOTERS), st.sampled_from(PROMOTERS), people)
reviewers = st.one_of(st.sampled_from(["ann", "bob", "other"]), people)
branches = st.sampled_from([*BRANCHES, BRANCHES[0], BRANCHES[0]])
sources = st.sampled_from(SOURCES)
numbers = st.sampled_from([0, 0, 0, 1, 1, 2, 5])


@dataclass
class Asked:
    """What the reference knows of a request: approvals by user, principal and head; how it was closed, if it was."""

    rid: str
    branch: str
    source: int
    by: str
    closed: str = ""
    approvals: list[tuple[str, str, int]] = field(default_factory=list)


@dataclass
class Branch:
    """How many versions a branch has, and how many approvals it wants of whom; none if there is no rule."""

    versions: int = 0
    required: int = 0
    approvers: tuple[str, ...] = ()


class Machine(RuleBasedStateMachine):
    """Calls of people who see all, each of which has the outcome that the reference expects."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self.registry = registry
        self.admin = registry.user("admin")
        self.users = {name: registry.user(name, *groups) for name, groups in PEOPLE.items()}
        folder = new_folder_rid()
        self.staging, self.production = (self.admin.create_model(name, folder) for name in ("staging", "production"))
        for name in PEOPLE:
            roles = {
                self.staging.rid: ROLE_EDITOR if name == "maker" else ROLE_VIEWER,
                self.production.rid: ROLE_PROMOTER if name in PROMOTERS else ROLE_VIEWER,
            }
            for rid, role in roles.items():
                self.admin("GrantRole", resource_rid=rid, principal=f"user:{name}", role=role)
        self.sources = [
            self.users["maker"].create_version(self.staging, model_api=model_api(str(number))).rid for number in SOURCES
        ]
        self.branches = {name: Branch() for name in BRANCHES}
        self.asked: list[Asked] = []
        for name in BRANCHES:
            self.admin(
                "SetBranchPolicy", model_rid=self.production.rid, branch=name, compatibility=COMPATIBILITY_MODE_OFF
            )
            self.set_policy(name, 1, APPROVERS[0])
        # So that each run has something to begin with.
        for source in SOURCES:
            self.request("asker", BRANCHES[0], source)

    # The reference

    def given(self, asked: Asked, without: str = "") -> set[str]:
        branch = self.branches[asked.branch]
        return {
            user
            for user, principal, head in asked.approvals
            if head == branch.versions and principal in branch.approvers and user != without
        }

    def state(self, asked: Asked) -> str:
        if asked.closed:
            return asked.closed
        return "APPROVED" if len(self.given(asked)) >= self.branches[asked.branch].required else "OPEN"

    def live(self, branch: str, source: int) -> Asked | None:
        found = [each for each in self.asked if (each.branch, each.source, each.closed) == (branch, source, "")]
        assert len(found) < 2
        return found[0] if found else None

    def principal(self, name: str, branch: str) -> str | None:
        """The one under which somebody counts: its own name first."""
        names = [f"user:{name}", *(f"group:{group}" for group in PEOPLE[name])]
        return next((each for each in names if each in self.branches[branch].approvers), None)

    def call(self, name: str, rpc: str, **fields: Any) -> tuple[Any, str]:
        """The answer, or the name of the failure."""
        try:
            return self.users[name](rpc, **fields), ""
        except grpc.RpcError as error:
            failure = failure_of(error)
            return failure, failure.name

    # What happens

    @rule(branch=branches, required=st.sampled_from([0, 1, 1, 1, 2]), approvers=st.sampled_from(APPROVERS))
    def set_policy(self, branch: str, required: int, approvers: tuple[str, ...]) -> None:
        change: dict[str, Any] = {"model_rid": self.production.rid, "branch": branch}
        if required:
            change["approvals"] = ApprovalRule(required=required, approvers=approvers)
        else:
            change["clear_fields"] = ["approvals"]
        known = self.branches[branch]
        if required < known.required or (known.required and {*approvers} - {*known.approvers}):
            assert self.admin.failure("SetBranchPolicy", **change).name == "ApprovalRequired"
            weaken_policy(self.registry, self.admin, **change)
        else:
            self.admin("SetBranchPolicy", **change)
        known.required, known.approvers = required, approvers if required else ()

    @rule(name=promoters, branch=branches, source=sources)
    def request(self, name: str, branch: str, source: int) -> None:
        wanted = {"model_rid": self.production.rid, "source_model_version_rid": self.sources[source], "branch": branch}
        answer, failure = self.call(name, "CreatePromotionRequest", **wanted)
        live = self.live(branch, source)
        if name not in PROMOTERS:
            assert failure == "PromoteVersionModelPermissionDenied"
        elif not self.branches[branch].required:
            assert failure == "ApprovalsNotRequired"
        elif live is not None:
            assert (failure, answer.parameters) == ("PromotionRequestAlreadyOpen", {"promotionRequestRid": live.rid})
        else:
            assert failure == ""
            self.asked.append(Asked(answer.rid, branch, source, name))

    @rule(name=reviewers, number=numbers, is_approval=st.sampled_from([True] * 7 + [False]))
    def review(self, name: str, number: int, is_approval: bool) -> None:
        if not self.asked:
            return
        asked = self.asked[-1 - number % len(self.asked)]
        verdict = REVIEW_VERDICT_APPROVE if is_approval else REVIEW_VERDICT_REJECT
        answer, failure = self.call(name, "ReviewPromotionRequest", promotion_request_rid=asked.rid, verdict=verdict)
        principal = self.principal(name, asked.branch)
        if asked.closed:
            assert (failure, answer.parameters["state"]) == ("PromotionRequestClosed", asked.closed)
        elif principal is None or (is_approval and name in ("maker", asked.by)):
            assert failure == "ReviewPromotionRequestPermissionDenied"
        else:
            assert failure == ""
            if is_approval:
                asked.approvals.append((name, principal, self.branches[asked.branch].versions))
            else:
                asked.closed = "REJECTED"

    @rule(name=people, number=numbers)
    def withdraw(self, name: str, number: int) -> None:
        if not self.asked:
            return
        asked = self.asked[-1 - number % len(self.asked)]
        answer, failure = self.call(name, "WithdrawPromotionRequest", promotion_request_rid=asked.rid)
        if name != asked.by:
            assert failure == "WithdrawPromotionRequestPermissionDenied"
        elif asked.closed:
            assert (failure, answer.parameters["state"]) == ("PromotionRequestClosed", asked.closed)
        else:
            assert failure == ""
            asked.closed = "WITHDRAWN"

    @rule(name=promoters, branch=branches, source=sources)
    def promote(self, name: str, branch: str, source: int) -> None:
        wanted = {"model_rid": self.production.rid, "source_model_version_rid": self.sources[source], "branch": branch}
        checked = self.users[name]("CheckPromotion", **wanted, preview=True)
        answer, failure = self.call(name, "PromoteVersion", **wanted, preview=True)
        assert checked.would_succeed == (not failure)
        assert [each.error_name for each in checked.obstacles][:1] == ([failure] if failure else [])
        known, live = self.branches[branch], self.live(branch, source)
        given = self.given(live, without=name) if live else set()
        if name not in PROMOTERS:
            assert failure == "PromoteVersionModelPermissionDenied"
        elif len(given) < known.required:
            assert (failure, answer.parameters["given"]) == ("ApprovalRequired", str(len(given)))
            assert answer.parameters["promotionRequestRid"] == (live.rid if live else "")
        else:
            assert (failure, answer.version_number) == ("", known.versions + 1)
            known.versions += 1
            if live and known.required:
                live.closed = "PROMOTED"

    @rule(data=st.data())
    def approve_and_promote(self, data: st.DataObject) -> None:
        """What a desk does all day, in one step."""
        live = [each for each in self.asked if not each.closed]
        if live:
            asked = data.draw(st.sampled_from(live))
            for reviewer in data.draw(st.lists(st.sampled_from(["ann", "bob", "other"]), max_size=3)):
                self.review(reviewer, self.asked[::-1].index(asked), is_approval=True)
            self.promote(data.draw(st.sampled_from(PROMOTERS)), asked.branch, asked.source)

    @rule(branch=branches)
    def roll_back(self, branch: str) -> None:
        """As an owner, to whatever was rolled back from before."""
        known = self.branches[branch]
        if known.versions > 1:
            place = {"model_rid": self.production.rid, "branch": branch}
            self.admin("RollbackBranch", **place, to_version_number=1, reason="why", override=True)
            known.versions += 1

    @invariant()
    def all_requests_stand_as_the_reference_says(self) -> None:
        page = self.admin("ListPromotionRequests", model_rid=self.production.rid, page_size=1000)
        listed = [each for each in page.promotion_requests if each.kind == PROMOTION_REQUEST_KIND_PROMOTION]
        told = [(each.rid, PromotionRequestState.Name(each.state)) for each in listed]
        expected = [(each.rid, f"PROMOTION_REQUEST_STATE_{self.state(each)}") for each in reversed(self.asked)]
        assert told == expected
        for seen, known in zip(listed, reversed(self.asked), strict=True):
            is_open = not known.closed and self.branches[known.branch].required
            assert [each.given for each in seen.approvals] == ([len(self.given(known))] if is_open else [])

    @invariant()
    def each_is_waited_for_as_the_reference_says(self) -> None:
        for name, user in self.users.items():
            page = user("ListPromotionRequests", model_rid=self.production.rid, waiting_for_me=True)
            assert [each.rid for each in page.promotion_requests] == [
                each.rid
                for each in reversed(self.asked)
                if self.state(each) == "OPEN"
                and self.principal(name, each.branch)
                and name not in ("maker", each.by, *self.given(each))
            ]


@pytest.mark.database("shared")
def test_requests_and_policies_in_whatever_order(registry: Registry) -> None:
    run_state_machine_as_test(lambda: Machine(registry), settings=RUNS)
