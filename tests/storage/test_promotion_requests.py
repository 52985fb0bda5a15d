"""Requests for promotion in storage; and what becomes of them by the rules, each transition of the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.model_pb2 import Model, ModelVersion
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, ApprovalRule, BranchPolicy, Promotion
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_STATE_EXPIRED,
    PROMOTION_REQUEST_STATE_OPEN,
    PROMOTION_REQUEST_STATE_PROMOTED,
    PROMOTION_REQUEST_STATE_REJECTED,
    PROMOTION_REQUEST_STATE_WITHDRAWN,
    REVIEW_VERDICT_APPROVE,
    REVIEW_VERDICT_REJECT,
    PolicyChange,
    PromotionRequest,
    PromotionRequestState,
    PromotionReview,
)
from modelregistry.v1.promotion_request_service_pb2 import (
    CreatePolicyChangeRequestRequest,
    CreatePromotionRequestRequest,
    GetPromotionRequestRequest,
    ReviewPromotionRequestRequest,
    WithdrawPromotionRequestRequest,
)
from modelregistry.v1.promotion_service_pb2 import SetBranchPolicyRequest, SetFolderBranchPolicyRequest
from server.core import rids
from server.core.caller import Caller
from server.core.errors import InvalidPageToken, RegistryError
from server.rules.branch_policies import set_branch_policy
from server.rules.policy_changes import canonical_change
from server.rules.promotion_requests import (
    create_policy_change_request,
    create_promotion_request,
    get_promotion_request,
    review_promotion_request,
    withdraw_promotion_request,
)
from server.rules.verdicts import write_with_verdicts
from server.storage.contract import PromotionRequestFilter, StoredRequest
from server.storage.paging import PageRequest
from server.storage.sql.lineage import MAX_STEPS
from server.storage.sql.promotion_requests import MAX_REVIEWS
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append, append_imported, caller, promote
from tests.documents import table
from tests.storage.conftest import Clock

CONTRACT = (Path(__file__).parents[2] / "docs/contract.md").read_text()
DAY_MS = 24 * 3_600_000
ASKER = Caller(("user:asker",), is_admin=True)
RISK = [Caller((f"user:{name}", "group:risk"), is_admin=True) for name in ("ann", "bob", "cid")]


def add(repository: SqlRepository, request: PromotionRequest) -> PromotionRequest:
    return repository.write(lambda tx: tx.add_promotion_request(request))


def find(repository: SqlRepository, rid: str, by: Caller = ADMIN) -> StoredRequest | None:
    return repository.read(lambda reader: reader.find_promotion_request(rid, by))


@pytest.fixture
def source(repository: SqlRepository) -> ModelVersion:
    return append(repository, builders.version(add_model(repository).rid))


@pytest.fixture
def target(repository: SqlRepository) -> Model:
    return add_model(repository)


# Storage


def test_a_request_is_found_as_it_was_stored_with_the_policies_and_the_head(
    repository: SqlRepository, source: ModelVersion, target: Model
) -> None:
    stored = add(
        repository, builders.promotion_request(source, target.rid, reason="why", error_count=1, warning_count=2)
    )
    assert stored.state == PROMOTION_REQUEST_STATE_OPEN
    found = find(repository, stored.rid)
    assert found is not None
    assert (found.request, found.head_rid, len(found.policies)) == (stored, None, 1)

    head = append(repository, builders.version(target.rid))
    rule = ApprovalRule(required=1, approvers=["group:risk"])
    repository.write(lambda tx: tx.add_policy(builders.policy(target.rid, 1, approvals=rule), ADMIN.user))
    of_folder = BranchPolicy(folder_rid=target.parent_folder_rid, branch="master", revision=1, approvals=rule)
    repository.write(lambda tx: tx.add_policy(of_folder, ADMIN.user))
    found = find(repository, stored.rid)
    assert found is not None
    assert found.head_rid == head.rid
    assert [(policy.folder_rid, policy.approvals) for policy in found.policies] == [
        ("", rule),
        (target.parent_folder_rid, rule),
    ]


def test_who_does_not_see_the_target_finds_nothing_and_who_does_not_see_the_source_is_not_told_of_it(
    repository: SqlRepository, source: ModelVersion, target: Model
) -> None:
    stored, jane = add(repository, builders.promotion_request(source, target.rid)), caller()
    assert find(repository, stored.rid, jane) is None
    assert find(repository, rids.new_promotion_request_rid(), jane) is None
    builders.grant(repository, target.rid, "user:jane", ROLE_VIEWER)
    found = find(repository, stored.rid, jane)
    assert found is not None
    blank = PromotionRequest()
    blank.CopyFrom(stored)
    for field in ("source_model_rid", "source_model_version_rid", "content_digest"):
        blank.ClearField(field)  # type: ignore[arg-type]
    assert found.request == blank
    builders.grant(repository, source.model_rid, "user:jane", ROLE_VIEWER)
    found = find(repository, stored.rid, jane)
    assert found is not None
    assert found.request == stored


def test_reviews_come_in_their_order_and_only_the_newest_hundred(
    timed: SqlRepository, clock: Clock, source: ModelVersion, target: Model
) -> None:
    stored = add(timed, builders.promotion_request(source, target.rid))
    reviews = [
        PromotionReview(
            reviewed_by=f"user:{number}",
            principals=["group:risk", f"user:{number}"],
            verdict=REVIEW_VERDICT_APPROVE,
            comment="two\nlines" if number % 2 else None,
            head_version_rid=source.rid if number % 2 else None,
        )
        for number in range(MAX_REVIEWS + 2)
    ]
    for review in reviews:
        clock.now_ms += 1
        timed.write(lambda tx, review=review: tx.add_review(stored, review))
        review.created_time.CopyFrom(builders.timestamp(clock.now_ms))
    found = find(timed, stored.rid)
    assert found is not None
    assert [*found.request.reviews] == reviews[2:]
    opened = timed.read(lambda reader: reader.find_open_request(target.rid, "master", source.rid))
    assert opened == found.request
    listed = timed.read(
        lambda reader: reader.list_promotion_requests(ADMIN, PromotionRequestFilter(target.rid), PageRequest(9))
    )
    for review in reviews:
        review.ClearField("comment")
    assert [*listed.items[0].request.reviews] == reviews[2:]


def test_a_request_is_closed_once_and_another_one_can_be_open_then(
    repository: SqlRepository, source: ModelVersion, target: Model
) -> None:
    first = add(repository, builders.promotion_request(source, target.rid))

    def opened() -> PromotionRequest | None:
        return repository.read(lambda reader: reader.find_open_request(target.rid, "master", source.rid))

    assert opened() == first
    promotion = rids.new_promotion_rid()
    close = lambda tx: tx.close_promotion_request(  # noqa: E731
        first, PROMOTION_REQUEST_STATE_PROMOTED, "user:joe", promotion, source.rid
    )
    repository.write(close)
    assert opened() is None
    found = find(repository, first.rid)
    assert found is not None
    assert (found.request.state, found.request.closed_by) == (PROMOTION_REQUEST_STATE_PROMOTED, "user:joe")
    assert (found.request.promotion_rid, found.request.model_version_rid) == (promotion, source.rid)
    with pytest.raises(RegistryError):
        repository.write(close)
    second = add(repository, builders.promotion_request(source, target.rid))
    assert opened() == second
    with pytest.raises(RegistryError):
        add(repository, builders.promotion_request(source, target.rid))
    add(repository, builders.promotion_request(source, target.rid, "other"))


def test_authors_are_those_of_the_root_and_of_all_on_the_way(repository: SqlRepository) -> None:
    models = [add_model(repository) for _ in range(4)]
    root = append(repository, builders.version(models[0].rid, created_by="user:root"))
    made = root
    for number, model in enumerate(models[1:]):
        made = promote(repository, made, model.rid, Caller((f"user:{number}",), is_admin=True))
    promote(repository, root, models[1].rid, Caller(("user:aside",), is_admin=True))
    authors = repository.read(lambda reader: reader.authors_of(made.rid))
    assert authors == {"user:root", "user:0", "user:1", "user:2"}
    assert repository.read(lambda reader: reader.authors_of(root.rid)) == {"user:root"}
    assert repository.read(lambda reader: reader.authors_of(rids.new_model_version_rid())) == frozenset()


def test_authors_are_looked_for_a_thousand_versions_back_and_the_root_is_known_from_anywhere(
    repository: SqlRepository,
) -> None:
    model = add_model(repository)
    chain = [builders.version(model.rid, created_by="user:root")]
    for number in range(MAX_STEPS + 2):
        version = builders.version(model.rid, created_by=f"user:{number}")
        version.root_model_version_rid = chain[0].rid
        chain.append(version)

    def store(tx: Any) -> None:
        tx.append_version(chain[0], tx.put_content(chain[0]))
        digest = tx.put_content(chain[0])
        for previous, version in pairwise(chain):
            record = Promotion(
                rid=rids.new_promotion_rid(),
                kind=PROMOTION_KIND_PROMOTION,
                source_model_rid=model.rid,
                source_model_version_rid=previous.rid,
            )
            tx.append_promoted(version, digest, record, None)

    repository.write(store)
    authors = repository.read(lambda reader: reader.authors_of(chain[-1].rid))
    assert authors == {"user:root", *(f"user:{number}" for number in range(1, MAX_STEPS + 2))}


def test_of_what_an_import_names_and_does_not_bring_nobody_is_an_author(repository: SqlRepository) -> None:
    version = builders.version(add_model(repository).rid, created_by="user:imported")
    version.root_model_version_rid = rids.new_model_version_rid()
    promotion = Promotion(
        rid=rids.new_promotion_rid(),
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=rids.new_model_rid(),
        source_model_version_rid=rids.new_model_version_rid(),
    )
    append_imported(repository, version, promotion)
    assert repository.read(lambda reader: reader.authors_of(version.rid)) == {"user:imported"}


def test_whether_a_principal_is_disabled_is_the_newest_change(repository: SqlRepository) -> None:
    def is_disabled(principal: str) -> bool:
        return repository.read(lambda reader: reader.is_disabled(principal))

    repository.write(lambda tx: tx.disable_principal("user:jane", "gone", ADMIN.user))
    assert (is_disabled("user:jane"), is_disabled("user:joe")) == (True, False)
    repository.write(lambda tx: tx.enable_principal("user:jane", ADMIN.user))
    assert not is_disabled("user:jane")


def change_of(model_rid: str, *names: str) -> PolicyChange:
    return canonical_change(SetBranchPolicyRequest(model_rid=model_rid, clear_fields=names))


def change_of_folder(folder_rid: str, *names: str) -> PolicyChange:
    return canonical_change(SetFolderBranchPolicyRequest(folder_rid=folder_rid, clear_fields=names))


def test_a_request_for_a_change_is_found_as_it_was_stored_with_the_policy_alone(
    repository: SqlRepository, target: Model
) -> None:
    append(repository, builders.version(target.rid))
    folder = target.parent_folder_rid
    rule = ApprovalRule(required=1, approvers=["group:risk"])
    repository.write(lambda tx: tx.add_policy(builders.policy(target.rid, 1, approvals=rule), ADMIN.user))
    of_folder = BranchPolicy(folder_rid=folder, branch="master", revision=1, promotion_only=True)
    repository.write(lambda tx: tx.add_policy(of_folder, ADMIN.user))
    for change, place, holds in (
        (change_of(target.rid, "approvals"), {"model_rid": target.rid}, ("", rule, False)),
        (change_of_folder(folder, "promotion_only"), {"folder_rid": folder}, (folder, ApprovalRule(), True)),
    ):
        stored = add(repository, builders.policy_change_request(change, **place, reason="why"))
        found = find(repository, stored.rid)
        assert found is not None
        assert (found.request, found.head_rid) == (stored, None)
        [policy] = found.policies
        assert (policy.folder_rid, policy.approvals, policy.promotion_only) == holds
        assert repository.read(lambda reader, change=change: reader.find_open_change(change)) == stored


def test_who_has_no_role_on_a_folder_finds_no_request_for_its_policy(repository: SqlRepository) -> None:
    folder, jane = builders.new_folder_rid(), caller()
    model = add_model(repository, folder=folder)
    change = change_of_folder(folder, "approvals")
    stored = add(repository, builders.policy_change_request(change, folder_rid=folder))
    builders.grant(repository, model.rid, "user:jane", ROLE_VIEWER)
    assert find(repository, stored.rid, jane) is None
    builders.grant(repository, folder, "user:jane", ROLE_VIEWER)
    found = find(repository, stored.rid, jane)
    assert found is not None
    assert (found.request, found.policies[0].revision) == (stored, 0)


def test_the_same_change_is_requested_once_until_that_is_closed(repository: SqlRepository, target: Model) -> None:
    change = change_of(target.rid, "approvals")
    first = add(repository, builders.policy_change_request(change, model_rid=target.rid))
    with pytest.raises(RegistryError):
        add(repository, builders.policy_change_request(change, model_rid=target.rid))
    other = change_of(target.rid, "approvals", "promoters")
    assert repository.read(lambda reader: reader.find_open_change(other)) is None
    add(repository, builders.policy_change_request(other, model_rid=target.rid))
    review = PromotionReview(
        reviewed_by="user:ann", principals=["group:risk"], verdict=REVIEW_VERDICT_APPROVE, policy_revision=0
    )
    repository.write(lambda tx: tx.add_review(first, review))
    found = repository.read(lambda reader: reader.find_open_change(change))
    assert found is not None
    assert [(each.HasField("policy_revision"), each.policy_revision) for each in found.reviews] == [(True, 0)]
    repository.write(
        lambda tx: tx.close_promotion_request(first, PROMOTION_REQUEST_STATE_PROMOTED, "user:joe", made_revision=3)
    )
    closed = find(repository, first.rid)
    assert closed is not None
    assert (closed.request.state, closed.request.made_policy_revision) == (PROMOTION_REQUEST_STATE_PROMOTED, 3)
    assert repository.read(lambda reader: reader.find_open_change(change)) is None
    add(repository, builders.policy_change_request(change, model_rid=target.rid))


# Lists


def test_requests_for_folders_and_models_are_listed_together_newest_first(
    repository: SqlRepository, source: ModelVersion
) -> None:
    """Also where a caller sees little of much: behind what is looked at first, its models and folders are asked."""
    folders = [builders.new_folder_rid() for _ in range(3)]
    model, hidden = add_model(repository), add_model(repository)
    for rid in (model.rid, *folders[:2]):
        builders.grant(repository, rid, "user:jane", ROLE_VIEWER)
    builders.grant(repository, folders[0], "group:ml", ROLE_VIEWER)
    expected = []
    for number in range(8):
        for folder in folders:
            change = change_of_folder(folder, str(number))
            stored = add(repository, builders.policy_change_request(change, folder_rid=folder))
            if folder != folders[2]:
                expected.insert(0, stored.rid)
        change = change_of(model.rid, str(number))
        expected.insert(0, add(repository, builders.policy_change_request(change, model_rid=model.rid)).rid)
    for number in range(40):
        change = change_of(hidden.rid, str(number))
        add(repository, builders.policy_change_request(change, model_rid=hidden.rid))
    jane = caller("user:jane", "group:ml")
    for size in (1, 2, 3, 100):
        assert listed(repository, jane, size) == expected
        assert listed(repository, jane, size, is_open=True, branch="master") == expected
        assert listed(repository, caller("user:nobody"), size) == []
    assert len(listed(repository, ADMIN, 100)) == 8 * 4 + 40


def pages(repository: SqlRepository, by: Caller, wanted: PromotionRequestFilter, size: int) -> Iterator[list[str]]:
    after = None
    while True:
        page = repository.read(
            lambda reader, after=after: reader.list_promotion_requests(by, wanted, PageRequest(size, after))
        )
        yield [stored.request.rid for stored in page.items]
        if page.next_position is None:
            return
        assert page.next_position == page.items[-1].position
        after = page.next_position


def listed(repository: SqlRepository, by: Caller, size: int, **wanted: Any) -> list[str]:
    return [rid for page in pages(repository, by, PromotionRequestFilter(**wanted), size) for rid in page]


def test_requests_are_listed_newest_first_by_every_filter_for_whoever_sees_their_target(
    repository: SqlRepository, source: ModelVersion
) -> None:
    seen, hidden = add_model(repository), add_model(repository)
    builders.grant(repository, seen.rid, "user:jane", ROLE_VIEWER)
    everything = []
    for number in range(12):
        model, branch = ((seen, hidden)[number % 2], ("master", "other")[number // 2 % 2])
        version = append(repository, builders.version(source.model_rid, label=str(number)))
        request = builders.promotion_request(version, model.rid, branch)
        request.requested_by = f"user:{number % 3}"
        stored = add(repository, request)
        if number % 4 == 3:
            repository.write(
                lambda tx, asked=stored: tx.close_promotion_request(asked, PROMOTION_REQUEST_STATE_REJECTED, "user:x")
            )
            stored.state = PROMOTION_REQUEST_STATE_REJECTED
        everything.insert(0, stored)

    jane, nobody = caller(), caller("user:nobody")
    ways: list[tuple[dict[str, Any], Callable[[PromotionRequest], bool]]] = [
        ({}, lambda _: True),
        ({"model_rid": seen.rid}, lambda each: each.model_rid == seen.rid),
        ({"branch": "other"}, lambda each: each.branch == "other"),
        ({"requested_by": "user:1"}, lambda each: each.requested_by == "user:1"),
        ({"is_open": True}, lambda each: each.state == PROMOTION_REQUEST_STATE_OPEN),
        ({"closed_as": PROMOTION_REQUEST_STATE_REJECTED}, lambda each: each.state == PROMOTION_REQUEST_STATE_REJECTED),
        (
            {"is_open": True, "branch": "master", "requested_by": "user:0"},
            lambda each: (
                (each.state, each.branch, each.requested_by) == (PROMOTION_REQUEST_STATE_OPEN, "master", "user:0")
            ),
        ),
    ]
    for wanted, passes in ways:
        for size in (1, 2, 100):
            mine = {seen.rid, hidden.rid}
            expected = [each.rid for each in everything if passes(each)]
            of_admin = [
                rid for rid in listed(repository, ADMIN, size, **wanted) if rid in {each.rid for each in everything}
            ]
            assert of_admin == expected, (wanted, mine)
            visible = [each.rid for each in everything if passes(each) and each.model_rid == seen.rid]
            assert listed(repository, jane, size, **wanted) == visible, (wanted, size)
            assert listed(repository, nobody, size, **wanted) == [], wanted
    assert listed(repository, jane, 9, model_rid=hidden.rid) == []


def test_what_is_no_position_is_told(repository: SqlRepository) -> None:
    with pytest.raises(InvalidPageToken):
        repository.read(
            lambda reader: reader.list_promotion_requests(ADMIN, PromotionRequestFilter(), PageRequest(1, "x"))
        )


# What becomes of a request: the table of the contract


class Desk:
    """A branch that wants two approvals of group:risk, a request for it, and all that can happen to it."""

    def __init__(self, repository: SqlRepository, clock: Clock):
        self.repository, self.clock = repository, clock
        self.target = add_model(repository)
        self.revision = 0
        self.set_rule(required=2)
        self.source = append(repository, builders.version(add_model(repository).rid))
        self.rid = self.request()
        self.reviewers = iter(RISK)

    def request(self) -> str:
        request = CreatePromotionRequestRequest(model_rid=self.target.rid, source_model_version_rid=self.source.rid)
        return self._write(create_promotion_request, ASKER, request).rid

    @property
    def state(self) -> str:
        request = GetPromotionRequestRequest(promotion_request_rid=self.rid)
        seen = self.repository.read(lambda reader: get_promotion_request(reader, ADMIN, request))
        return PromotionRequestState.Name(seen.state).removeprefix("PROMOTION_REQUEST_STATE_")

    def _write(self, rule: Callable[..., Any], by: Caller, request: Any) -> Any:
        return write_with_verdicts(self.repository, lambda tx: rule(tx, by, request))

    def set_rule(self, **rule: Any) -> None:
        self.revision += 1
        rules = {}
        if rule:
            rules["approvals"] = ApprovalRule(**{"required": 2, "approvers": ["group:risk"]} | rule)
        policy = builders.policy(self.target.rid, 2, self.revision, **rules)
        self.repository.write(lambda tx: tx.add_policy(policy, ADMIN.user))

    def review(self, verdict: Any) -> None:
        request = ReviewPromotionRequestRequest(promotion_request_rid=self.rid, verdict=verdict)
        self._write(review_promotion_request, next(self.reviewers), request)

    def approve(self) -> None:
        self.review(REVIEW_VERDICT_APPROVE)

    def reject(self) -> None:
        self.review(REVIEW_VERDICT_REJECT)

    def withdraw(self) -> None:
        request = WithdrawPromotionRequestRequest(promotion_request_rid=self.rid)
        self._write(withdraw_promotion_request, ASKER, request)

    def promote(self) -> None:
        promote(self.repository, self.source, self.target.rid, ASKER)

    def new_head(self) -> None:
        append(self.repository, builders.version(self.target.rid, label=str(self.clock.now_ms)))

    def rename_approvers(self) -> None:
        self.set_rule(approvers=["group:safety"])

    def want_more(self) -> None:
        self.set_rule(required=3)

    def want_fewer(self) -> None:
        self.set_rule(required=1)

    def want_none(self) -> None:
        self.set_rule()

    def wait(self) -> None:
        self.clock.now_ms += 7 * DAY_MS

    def shorten(self) -> None:
        self.clock.now_ms += 60_000
        hurry = Duration()
        hurry.FromTimedelta(timedelta(minutes=1))
        self.set_rule(expire_after=hurry)

    def lengthen(self) -> None:
        self.set_rule()


class ChangeDesk(Desk):
    """The same of a request that its policy is weakened: a new revision is to it what a new head is to the other."""

    def request(self) -> str:
        request = CreatePolicyChangeRequestRequest(policy_change=PolicyChange(branch=self.change))
        return self._write(create_policy_change_request, ASKER, request).rid

    @property
    def change(self) -> SetBranchPolicyRequest:
        return SetBranchPolicyRequest(model_rid=self.target.rid, clear_fields=["approvals"])

    def promote(self) -> None:
        self._write(set_branch_policy, ASKER, self.change)
        self.revision += 1

    def new_head(self) -> None:
        self.set_rule(required=2)


EVENTS = ["approve", "reject", "withdraw", "promote", "new_head", "rename_approvers"]
EVENTS += ["want_more", "want_fewer", "want_none", "wait", "shorten", "lengthen"]


@pytest.mark.parametrize("kind", [Desk, ChangeDesk], ids=["of a promotion", "of a change of the policy"])
def test_the_transitions_are_those_of_the_contract(timed: SqlRepository, clock: Clock, kind: type[Desk]) -> None:
    """From each state that is reached by up to three events, each event is tried."""
    ways: list[tuple[str, ...]] = [
        (),
        ("approve",),
        ("approve", "approve"),
        ("reject",),
        ("withdraw",),
        ("approve", "approve", "promote"),
        ("shorten",),
        ("approve", "approve", "shorten"),
        ("wait",),
    ]
    seen: set[tuple[str, str]] = set()
    for way in ways:
        for event in EVENTS:
            desk = kind(timed, clock)
            for each in way:
                getattr(desk, each)()
            before = desk.state
            try:
                getattr(desk, event)()
            except RegistryError:
                assert desk.state == before, (way, event)
            if desk.state != before:
                seen.add((before, desk.state))

    told = {(begin, end) for begin, _, end in table(CONTRACT, "Promotion requests")}
    assert seen == told


def test_a_request_expires_as_the_policy_said_when_it_was_made_whatever_comes(
    timed: SqlRepository, clock: Clock
) -> None:
    desk = Desk(timed, clock)
    desk.approve()
    desk.approve()
    clock.now_ms += 7 * DAY_MS - 1
    late = Duration()
    late.FromTimedelta(timedelta(days=30))
    desk.set_rule(expire_after=late)
    assert desk.state == "APPROVED"
    clock.now_ms += 1
    assert desk.state == "EXPIRED"
    with pytest.raises(RegistryError) as refused:
        desk.promote()
    assert (refused.value.name, refused.value.parameters["promotionRequestRid"]) == ("ApprovalRequired", "")
    # Another one takes its place, and then it is closed for good.
    again = CreatePromotionRequestRequest(model_rid=desk.target.rid, source_model_version_rid=desk.source.rid)
    assert desk._write(create_promotion_request, ASKER, again).rid != desk.rid
    stored = find(timed, desk.rid)
    assert stored is not None
    assert (stored.request.state, stored.request.closed_by) == (PROMOTION_REQUEST_STATE_EXPIRED, "")


def test_a_request_that_was_withdrawn_says_by_whom_and_when(timed: SqlRepository, clock: Clock) -> None:
    desk = Desk(timed, clock)
    clock.now_ms += 5
    desk.withdraw()
    stored = find(timed, desk.rid)
    assert stored is not None
    assert stored.request.state == PROMOTION_REQUEST_STATE_WITHDRAWN
    assert (stored.request.closed_by, stored.request.closed_time) == ("user:asker", builders.timestamp(clock.now_ms))
