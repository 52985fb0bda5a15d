"""Obstacles to a promotion: PromoteVersion raises the first one, CheckPromotion lists all, whatever the facts.

Storage is a stand-in here that says what a case wants it to say; what it really says, the conformance suite tests.
"""

from __future__ import annotations

import contextvars
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_EDITOR, ROLE_OWNER, ROLE_PROMOTER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import (
    COMPATIBILITY_MODE_ENFORCE,
    COMPATIBILITY_MODE_ENFORCE_TRANSITIVE,
    COMPATIBILITY_MODE_OFF,
    COMPATIBILITY_MODE_WARN,
)
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.model_service_pb2 import CreateModelVersionRequest, PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import ApprovalRule, BranchPolicy, Promotion
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_STATE_OPEN,
    REVIEW_VERDICT_APPROVE,
    PromotionRequest,
    PromotionReview,
)
from modelregistry.v1.promotion_service_pb2 import (
    BatchPromoteVersionsRequest,
    BatchPromotion,
    CheckPromotionResponse,
    RollbackBranchRequest,
)
from modelregistry.v1.recall_service_pb2 import BatchRollbackRequest, BranchRollback, Yank
from server.core import cancellation, errors, rids
from server.core.cancellation import Call, CallOver
from server.core.errors import RegistryError
from server.rules.api_history import MOST_APIS
from server.rules.compatibility import RULES_VERSION
from server.rules.idempotency import claim_of
from server.rules.models import create_model_version
from server.rules.obstacles import OBSTACLES
from server.rules.promotion import (
    batch_promote_versions,
    batch_rollback,
    check_promotion,
    promote_version,
    rollback_branch,
)
from server.rules.verdicts import ComparisonsNeeded
from server.storage.contract import (
    BranchEnd,
    Comparison,
    Head,
    HeadApi,
    PolicyPeriod,
    Promoted,
    PromotionFacts,
    RequestRecord,
    StoredVersion,
    Tenure,
    Verdict,
    VisibleModel,
)
from tests import builders
from tests.builders import caller

JANE = caller("user:jane")
TARGET = builders.model("target")
SOURCE = builders.version(builders.model("source").rid)
MADE = builders.version(TARGET.rid)
HEAD = rids.new_model_version_rid()
NOW_MS = 1_000_000
REQUEST_ID = "6a3e0c3f-8e7b-4b58-9d9c-0d3c3ff1a3a7"
NUMBER = 3
YANK = Yank(rid=rids.new_yank_rid(), model_version_rid=SOURCE.rid, reason="poisoned", yanked_by="user:joe")
# For how long the source has been a head.
AGE_MS = 1_000
RULES = ("promoters", "allowed_sources", "min_time_as_head")
OLD_HEAD = rids.new_model_version_rid()
ASKED = rids.new_promotion_request_rid()
# What speaks against promotions, and not against rollbacks that have a reason.
FOR_PROMOTIONS = ("ModelApiIncompatible", "BranchLocked", "ApprovalRequired")


class Case(NamedTuple):
    """Facts, and what a request says that depends on them."""

    role: int | None
    earlier: str
    source: str
    expected_head: str | None
    head: str | None
    mode: int
    errors: int
    promotion_only: bool = False
    lock: str = "none"
    is_yanked: bool = False
    # The Model APIs that earlier heads had, where these count.
    apis: str = "compatible"
    # Those that refuse: "promoters", "allowed_sources", "min_time_as_head".
    rules: tuple[str, ...] = ()
    was_rolled_back: bool = False
    approvals: str = "none"

    @property
    def policy(self) -> BranchPolicy:
        """That of the branch."""
        policy = BranchPolicy(compatibility=self.mode, promotion_only=self.promotion_only)  # type: ignore[arg-type]
        if "promoters" in self.rules:
            policy.promoters.principals.append("user:joe")
        if "allowed_sources" in self.rules:
            policy.allowed_sources.sources.add(model_rid=SOURCE.model_rid, branch="staging")
        if "min_time_as_head" in self.rules:
            policy.min_time_as_head.FromMilliseconds(AGE_MS + 1)
        if self.approvals != "none":
            policy.approvals.CopyFrom(ApprovalRule(required=1, approvers=["group:risk"]))
        if self.lock != "none":
            policy.lock.reason = "incident 42"
        if self.lock == "is over":
            policy.lock.expire_time.FromMilliseconds(NOW_MS)
        return policy

    @property
    def expected(self) -> list[str]:
        """The names of the errors, in the order that docs/contract.md promises. A new obstacle gets a row here."""
        if self.role is None:
            return ["ModelNotFound"]
        if self.earlier == "the same":
            return []
        is_compared = self.source != "absent" and self.head == "other content"
        rows = (
            ("RequestIdAlreadyUsed", self.earlier == "another"),
            ("PromoteVersionModelPermissionDenied", self.role < ROLE_PROMOTER),
            ("PromoteVersionModelPermissionDenied", "promoters" in self.rules),
            ("BranchLocked", self.lock == "holds"),
            ("ModelVersionNotFound", self.source == "absent"),
            ("UnsupportedModelSource", self.source == "legacy"),
            ("VersionYanked", self.is_yanked and self.source != "absent"),
            ("SourceNotAllowed", self.source != "absent" and "allowed_sources" in self.rules),
            ("SourceTooYoung", self.source != "absent" and "min_time_as_head" in self.rules),
            ("BranchHeadChanged", self.expected_head is not None and self.expected_head != (HEAD if self.head else "")),
            ("TooManyModelApis", self.source != "absent" and self.has_too_many_apis),
            (
                "ModelApiIncompatible",
                (is_compared and self.is_enforced and bool(self.errors))
                or (self.source != "absent" and self.breaks_an_earlier_api),
            ),
            # Approvals of what the caller may not see are not looked for.
            ("ApprovalRequired", self.approvals == "lacking" or (self.approvals, self.source) == ("given", "absent")),
        )
        return [name for name, is_there in rows if is_there]

    @property
    def is_enforced(self) -> bool:
        """Whether errors refuse a new head."""
        return self.mode in (COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)

    @property
    def has_too_many_apis(self) -> bool:
        """Whether earlier heads count, and are too many."""
        return self.mode == COMPATIBILITY_MODE_ENFORCE_TRANSITIVE and bool(self.head) and self.apis == "too many"

    @property
    def breaks_an_earlier_api(self) -> bool:
        """Whether earlier heads count, and there are errors beside one."""
        return self.mode == COMPATIBILITY_MODE_ENFORCE_TRANSITIVE and bool(self.head) and self.apis == "incompatible"

    @property
    def expected_of_rollback(self) -> list[str]:
        """The same for a rollback with a reason."""
        if self.role is None or self.earlier == "the same":
            return self.expected
        is_protected = self.lock == "holds" or bool(self.rules) or self.approvals != "none"
        rows = (
            ("RequestIdAlreadyUsed", self.earlier == "another"),
            ("PromoteVersionModelPermissionDenied", self.role < (ROLE_OWNER if is_protected else ROLE_PROMOTER)),
            ("BranchNotFound", self.source == "absent" and not self.head),
            ("VersionNumberNotFound", self.source == "absent" and bool(self.head)),
            ("UnsupportedModelSource", self.source == "legacy"),
            ("VersionYanked", self.is_yanked and self.source != "absent"),
            ("VersionRolledBack", self.was_rolled_back and is_protected),
            ("BranchHeadChanged", "BranchHeadChanged" in self.expected),
        )
        return [name for name, is_there in rows if is_there]

    @property
    def expected_of_creation(self) -> list[str]:
        """The same for a version that is created, which has no source and expects no head."""
        if self.role is None or self.earlier == "the same":
            return self._replace(source="there", expected_head=None).expected
        is_compared = self.head == "other content" and self.is_enforced
        rows = (
            ("RequestIdAlreadyUsed", self.earlier == "another"),
            ("CreateModelVersionPermissionDenied", self.role < ROLE_EDITOR),
            ("BranchLocked", self.lock == "holds"),
            ("BranchAcceptsPromotionsOnly", self.promotion_only or self.approvals != "none"),
            ("TooManyModelApis", self.has_too_many_apis),
            ("ModelApiIncompatible", (is_compared and bool(self.errors)) or self.breaks_an_earlier_api),
        )
        return [name for name, is_there in rows if is_there]


CASES = [
    Case(*facts)
    for facts in itertools.product(
        (None, ROLE_VIEWER, ROLE_PROMOTER, ROLE_OWNER),
        ("none", "the same", "another"),
        ("absent", "legacy", "there"),
        (None, "", HEAD, rids.new_model_version_rid()),
        (None, "same content", "other content"),
        (COMPATIBILITY_MODE_OFF, COMPATIBILITY_MODE_WARN, COMPATIBILITY_MODE_ENFORCE),
        (0, 2),
        (False,),
        ("none", "holds"),
        (False, True),
    )
]
CASES += [
    case._replace(mode=COMPATIBILITY_MODE_ENFORCE_TRANSITIVE, apis=apis)
    for case in CASES
    if case.mode == COMPATIBILITY_MODE_ENFORCE
    for apis in ("compatible", "incompatible", "too many")
]
CASES += [
    Case(
        role,
        earlier,
        source,
        head,
        "other content",
        COMPATIBILITY_MODE_ENFORCE,
        errors,
        lock=lock,
        is_yanked=is_yanked,
        rules=rules,
        was_rolled_back=was_rolled_back,
    )
    for role, earlier, source, head, errors, lock, is_yanked, rules, was_rolled_back in itertools.product(
        (None, ROLE_VIEWER, ROLE_PROMOTER, ROLE_OWNER),
        ("none", "the same", "another"),
        ("absent", "legacy", "there"),
        (None, SOURCE.rid),
        (0, 2),
        ("none", "holds"),
        (False, True),
        tuple(itertools.chain.from_iterable(itertools.combinations(RULES, count) for count in range(len(RULES) + 1))),
        (False, True),
    )
]
CASES += [
    case._replace(approvals=approvals)
    for case in CASES
    if case.lock == "none" and case.expected_head in (None, HEAD) and case.mode != COMPATIBILITY_MODE_WARN
    for approvals in ("lacking", "given")
]
# And what stands in the way together with another one nowhere above.
CASES += [
    case._replace(lock="holds")
    for case in CASES
    if (case.role, case.source, case.approvals, case.lock) == (ROLE_OWNER, "there", "lacking", "none")
]
CASES += [
    case._replace(mode=COMPATIBILITY_MODE_ENFORCE_TRANSITIVE, apis="too many")
    for case in CASES
    if (case.role, case.source, case.rules) == (ROLE_OWNER, "there", RULES)
]
CREATIONS = [
    case._replace(promotion_only=promotion_only)
    for case in CASES
    if (case.source, case.expected_head, case.is_yanked) == ("there", None, False)
    for promotion_only in (False, True)
]


class Storage:
    """Says what a case wants it to say, as repository, reader and transaction, and keeps what is appended."""

    def __init__(self, case: Case, request: Any):
        self.case = case
        self.appended: list[ModelVersion] = []
        self.recorded: list[Promotion] = []
        self.apis: list[HeadApi] = []
        self.closed = 0
        claim = claim_of(JANE, request, [MADE.rid])
        self._claimed = claim and claim.request

    def read(self, query: Callable[[Any], Any]) -> Any:
        return query(self)

    def lock_branches(self, *_: object) -> None: ...

    def _earlier(self) -> RequestRecord | None:
        match self.case.earlier:
            case "the same":
                return self._claimed
            case "another":
                return RequestRecord(b"another", (MADE.rid,))
        return None

    def find_request(self, _: object) -> RequestRecord | None:
        return self._earlier()

    def claim_request(self, _: object, request: RequestRecord) -> RequestRecord | None:
        return self._earlier()

    def _stored(self) -> StoredVersion | None:
        if self.case.source == "absent":
            return None
        return StoredVersion(SOURCE, b"candidate", "{}" if self.case.source == "legacy" else None)

    def get_promotion_facts(self, *_: object) -> PromotionFacts:
        case = self.case
        if case.role is None:
            return PromotionFacts(None, None, BranchEnd(1, None), None, NOW_MS)
        digest = b"candidate" if case.head == "same content" else b"head"
        head = Head(HEAD, digest, 0) if case.head else None
        end = BranchEnd(NUMBER + 2 if head else 1, head, (case.policy,), 1 if head else None)  # type: ignore[arg-type]
        verdict = Verdict(1, case.errors) if case.head == "other content" and case.source != "absent" else None
        yank = YANK if case.is_yanked and case.source != "absent" else None
        return PromotionFacts(case.role, self._stored(), end, verdict, NOW_MS, yank)  # type: ignore[arg-type]

    def list_head_apis(self, *_: object) -> list[HeadApi]:
        case = self.case
        assert (case.mode, bool(case.head)) == (COMPATIBILITY_MODE_ENFORCE_TRANSITIVE, True)
        count = MOST_APIS + 1 if case.apis == "too many" else 1
        verdict = Verdict(2, 3 if case.apis == "incompatible" else 0)
        return [HeadApi(str(number).encode(), number, b"earlier", verdict) for number in range(count)]

    def add_head_api(self, model_rid: str, branch: str, period: PolicyPeriod, api: HeadApi) -> None:
        assert (model_rid, branch, period.level_rid) == (TARGET.rid, "master", TARGET.rid)
        self.apis.append(api)

    def list_tenures(self, rid: str) -> list[Tenure]:
        assert rid == SOURCE.rid
        return [Tenure(SOURCE.model_rid, "master", NOW_MS - AGE_MS, None)]

    def visible_models(self, model_rids: set[str], _: object) -> set[str]:
        return model_rids

    def was_rolled_back(self, branch: BranchEnd, digest: bytes) -> bool:
        assert digest == b"candidate"
        return self.case.was_rolled_back

    def find_open_request(self, *_: object) -> PromotionRequest | None:
        """One that is reviewed; another one's review is of a head that there was before."""
        given = self.case.approvals == "given"
        seen = (HEAD if self.case.head else None) if given else OLD_HEAD
        review = PromotionReview(
            reviewed_by="user:joe", principals=["group:risk"], verdict=REVIEW_VERDICT_APPROVE, head_version_rid=seen
        )
        return PromotionRequest(
            rid=ASKED,
            state=PROMOTION_REQUEST_STATE_OPEN,
            requested_by="user:jane",
            expire_time=builders.timestamp(NOW_MS + 1),
            created_time=builders.timestamp(NOW_MS),
            reviews=[review],
        )

    def close_promotion_request(self, request: PromotionRequest, *_: object) -> None:
        assert (request.rid, self.case.approvals) == (ASKED, "given")
        assert self.recorded[-1].promotion_request_rid == ASKED
        self.closed += 1

    def find_numbered_version(self, *_: object) -> StoredVersion | None:
        return self._stored()

    def find_verdict(self, _: Comparison) -> Verdict | None:
        return Verdict(2, 3)

    def get_findings(self, verdict: Verdict) -> Promotion:
        return Promotion(error_count=verdict.error_count)

    def find_version(self, rid: str, _: object) -> StoredVersion | None:
        assert rid == MADE.rid
        return StoredVersion(MADE, b"", None)

    def append_promoted(
        self, version: ModelVersion, digest: bytes, promotion: Promotion, _: object, branch: BranchEnd
    ) -> Promoted:
        assert digest == b"candidate"
        self.appended.append(version)
        self.recorded.append(promotion)
        stored = ModelVersion()
        stored.CopyFrom(version)
        stored.version_number = branch.next_number
        return Promoted(stored, b"")

    def put_content(self, *_: object) -> bytes:
        return b"candidate"

    def append_version(self, version: ModelVersion, digest: bytes, *, branch: BranchEnd) -> ModelVersion:
        assert digest == b"candidate"
        assert branch.next_number == (NUMBER + 2 if self.case.head else 1)
        self.appended.append(version)
        return version

    def get_model(self, *_: object) -> VisibleModel:
        assert self.case.role is not None
        return VisibleModel(TARGET, self.case.role)  # type: ignore[arg-type]

    def get_promotion_rid(self, _: str) -> str:
        return rids.new_promotion_rid()


def _request(case: Case) -> PromoteVersionRequest:
    return PromoteVersionRequest(
        model_rid=TARGET.rid,
        source_model_version_rid=SOURCE.rid,
        expected_head_version_rid=case.expected_head,
        request_id=None if case.earlier == "none" else REQUEST_ID,
    )


def _names(act: Callable[[], object]) -> list[str]:
    """The name of the error that is raised, if one is."""
    try:
        act()
    except RegistryError as error:
        return [error.name]
    return []


def test_check_and_promotion_agree_over_all_facts() -> None:
    for case in CASES:
        request = _request(case)
        checked: CheckPromotionResponse = check_promotion(Storage(case, request), JANE, request)  # type: ignore[arg-type]
        assert [each.error_name for each in checked.obstacles] == case.expected, case
        assert checked.would_succeed == (not case.expected), case
        tx = Storage(case, request)
        promote = lambda tx=tx, request=request: promote_version(tx, JANE, request)  # noqa: E731
        assert _names(promote) == case.expected[:1], case
        is_stored = not case.expected and case.earlier != "the same"
        assert len(tx.appended) == len(tx.recorded) == is_stored, case
        assert len(tx.apis) == (is_stored and case.mode == COMPATIBILITY_MODE_ENFORCE_TRANSITIVE), case
        assert tx.closed == (is_stored and case.approvals == "given"), case


def test_a_batch_has_the_obstacles_of_its_entries() -> None:
    for case in CASES:
        entry = BatchPromotion(
            model_rid=TARGET.rid, source_model_version_rid=SOURCE.rid, expected_head_version_rid=case.expected_head
        )
        request = BatchPromoteVersionsRequest(
            promotions=[entry], request_id=None if case.earlier == "none" else REQUEST_ID
        )
        tx: Any = Storage(case, request)
        assert _names(lambda tx=tx, request=request: batch_promote_versions(tx, JANE, request)) == case.expected[:1], (
            case
        )


def test_a_rollback_has_the_same_obstacles_but_for_those_of_its_source() -> None:
    for case in CASES:
        request = RollbackBranchRequest(
            model_rid=TARGET.rid,
            to_version_number=NUMBER,
            expected_head_version_rid=case.expected_head,
            reason="the way back",
            request_id=None if case.earlier == "none" else REQUEST_ID,
        )
        entry = BranchRollback(
            model_rid=request.model_rid,
            to_version_number=NUMBER,
            expected_head_version_rid=case.expected_head,
            reason=request.reason,
        )
        batch = BatchRollbackRequest(rollbacks=[entry], request_id=None if case.earlier == "none" else REQUEST_ID)
        tx: Any = Storage(case, request)
        expected = case.expected_of_rollback[:1]
        assert _names(lambda tx=tx, request=request: rollback_branch(tx, JANE, request)) == expected, case
        tx = Storage(case, batch)
        assert _names(lambda tx=tx, batch=batch: batch_rollback(tx, JANE, batch)) == expected, case


def test_a_version_that_is_created_has_the_same_obstacles_but_for_those_of_its_source() -> None:
    for case in CREATIONS:
        request = CreateModelVersionRequest(
            model_rid=TARGET.rid, request_id=None if case.earlier == "none" else REQUEST_ID
        )
        findings = {Comparison(b"head", b"candidate", RULES_VERSION): Promotion(error_count=case.errors)}
        tx: Any = Storage(case, request)
        create = lambda tx=tx, request=request, found=findings: create_model_version(tx, JANE, request, findings=found)  # noqa: E731
        expected = case.expected_of_creation
        assert _names(create) == expected[:1], case
        assert len(tx.appended) == (not expected and case.earlier != "the same"), case


def test_a_version_is_compared_only_where_the_policy_asks_for_it() -> None:
    """So where it does not, a creation waits for no comparison."""
    enforcing = (COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_ENFORCE_TRANSITIVE)
    for mode in (COMPATIBILITY_MODE_OFF, COMPATIBILITY_MODE_WARN, *enforcing):
        case = Case(ROLE_OWNER, "none", "there", None, "other content", mode, 2)
        request = CreateModelVersionRequest(model_rid=TARGET.rid)
        tx: Any = Storage(case, request)
        if mode in enforcing:
            with pytest.raises(ComparisonsNeeded):
                create_model_version(tx, JANE, request)
        else:
            create_model_version(tx, JANE, request)
        assert len(tx.appended) == (mode not in enforcing)


def test_a_lock_lets_a_rollback_pass_that_has_a_reason_and_ends_with_its_time() -> None:
    case = Case(ROLE_OWNER, "none", "there", None, "other content", COMPATIBILITY_MODE_WARN, 0, lock="holds")
    request = RollbackBranchRequest(model_rid=TARGET.rid, to_version_number=NUMBER)
    locked: Any = Storage(case, request)
    assert _names(lambda: rollback_branch(locked, JANE, request)) == ["BranchLocked"]
    request.reason = "incident 42"
    assert _names(lambda: rollback_branch(locked, JANE, request)) == []
    over: Any = Storage(case._replace(lock="is over"), request)
    assert _names(lambda: promote_version(over, JANE, _request(case))) == []


def test_a_rollback_to_the_head_is_refused_last() -> None:
    case = Case(ROLE_PROMOTER, "none", "there", None, "other content", COMPATIBILITY_MODE_ENFORCE, 2)
    request = RollbackBranchRequest(model_rid=TARGET.rid, to_version_number=NUMBER + 1)
    tx: Any = Storage(case, request)
    assert _names(lambda: rollback_branch(tx, JANE, request)) == ["VersionAlreadyHead"]
    request.expected_head_version_rid = SOURCE.rid
    assert _names(lambda: rollback_branch(tx, JANE, request)) == ["BranchHeadChanged"]


def test_in_a_batch_what_is_wrong_with_any_request_wins_over_what_is_wrong_with_a_branch() -> None:
    """So the error does not depend on which entry comes first."""
    changed = Case(ROLE_PROMOTER, "none", "there", "", "other content", COMPATIBILITY_MODE_OFF, 0)
    invisible = changed._replace(role=None)

    class Both(Storage):
        def get_promotion_facts(self, wanted: Any, *_: object) -> PromotionFacts:
            return Storage(
                invisible if wanted.model_rid == SOURCE.model_rid else changed, request
            ).get_promotion_facts()

    request = BatchPromoteVersionsRequest(
        promotions=[
            BatchPromotion(model_rid=rid, source_model_version_rid=SOURCE.rid, expected_head_version_rid=SOURCE.rid)
            for rid in (TARGET.rid, SOURCE.model_rid)
        ]
    )
    tx: Any = Both(changed, request)
    with pytest.raises(RegistryError) as caught:
        batch_promote_versions(tx, JANE, request)
    assert caught.value.name == "ModelNotFound"
    assert caught.value.violations[0].field == "promotions[1]"


def test_a_batch_whose_call_is_over_stops_at_its_next_promotion() -> None:
    case = Case(ROLE_PROMOTER, "none", "there", None, "same content", COMPATIBILITY_MODE_WARN, 0)
    call = Call()

    class Ending(Storage):
        def append_promoted(self, *arguments: Any, **options: Any) -> Promoted:
            if len(self.appended) == 2:
                call.end()
            return super().append_promoted(*arguments, **options)

    entry = BatchPromotion(model_rid=TARGET.rid, source_model_version_rid=SOURCE.rid)
    request = BatchPromoteVersionsRequest(promotions=[entry] * 100)
    tx: Any = Ending(case, request)

    def promote() -> None:
        cancellation.begin(call)
        batch_promote_versions(tx, JANE, request)

    with pytest.raises(CallOver):
        contextvars.Context().run(promote)
    assert len(tx.appended) == 3


def test_each_obstacle_is_met_by_some_case() -> None:
    """So a new one without a row in `Case.expected` fails here."""

    met = {name for case in CASES for name in case.expected}
    met |= {name for case in CREATIONS for name in case.expected_of_creation} - {"CreateModelVersionPermissionDenied"}
    met |= {name for case in CASES for name in case.expected_of_rollback} - {"BranchNotFound", "VersionNumberNotFound"}
    # One more is that the target is not there; one, that a version is the head already, stands against rollbacks; and
    # two refuse with PromoteVersionModelPermissionDenied.
    assert len(met) == len(OBSTACLES) - 1


def test_the_order_is_that_of_the_contract_for_every_two_obstacles_at_once() -> None:
    contract = (Path(__file__).parents[2] / "docs/contract.md").read_text()
    said = contract.split("**The order of refusals**")[1].split(" What is wrong with the files")[0]
    order = [name for name in re.findall(r"\b[A-Z]\w+", said) if hasattr(errors, name)]

    met: set[tuple[str, str]] = set()
    for names in (
        *(case.expected for case in CASES),
        *(case.expected_of_rollback for case in CASES),
        *(case.expected_of_creation for case in CREATIONS),
    ):
        assert list(dict.fromkeys(names)) == [name for name in order if name in names]
        met |= set(itertools.combinations(names, 2))

    of_promotions = {name for case in CASES for name in case.expected} - {"ModelNotFound"}
    # Of a source that is not there nothing is said that depends on it.
    of_source = set(order[order.index("UnsupportedModelSource") :]) - {"BranchHeadChanged"}
    possible = {
        (one, other)
        for one, other in itertools.combinations([name for name in order if name in of_promotions], 2)
        if not (one == "ModelVersionNotFound" and other in of_source - {"ApprovalRequired"})
    }
    assert possible <= met
