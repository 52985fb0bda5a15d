"""How branches go on, and what promotions leave behind. Each test runs on every backend."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, func, text, update

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import (
    COMPATIBILITY_MODE_ENFORCE,
    COMPATIBILITY_MODE_OFF,
    COMPATIBILITY_MODE_WARN,
    COMPATIBILITY_RULE_REMOVED,
    SEVERITY_ERROR,
    CompatibilityFinding,
)
from modelregistry.v1.model_pb2 import Model, ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.promotion_pb2 import (
    PROMOTION_KIND_PROMOTION,
    PROMOTION_KIND_ROLLBACK,
    BranchPolicy,
    Promotion,
)
from modelregistry.v1.promotion_service_pb2 import ListPromotionsResponse
from server.core import rids
from server.core.caller import Caller
from server.core.errors import InvalidPageToken
from server.storage.contract import (
    BranchEnd,
    Comparison,
    Head,
    PromotionFilter,
    RequestKey,
    RequestRecord,
    Transaction,
    Verdict,
)
from server.storage.paging import Page, PageRequest, Position
from server.storage.sql.repository import SqlRepository
from server.storage.sql.tables import branch_policies, promotions
from tests import builders
from tests.builders import ADMIN, ALL, add_model, append, branch_end, caller, lock, promote
from tests.conftest import OpenRepository
from tests.storage.conftest import NOW_MS, Clock, GivenUp, at_once
from tests.storage.inspection import alter, open_engine, rows

JANE = caller("user:jane")
EVERYTHING = PromotionFilter()
PAGE = PageRequest(ALL)


def listed(
    repository: SqlRepository, by: Caller = ADMIN, wanted: PromotionFilter = EVERYTHING, page: PageRequest = PAGE
) -> list[Promotion]:
    return repository.read(lambda reader: reader.list_promotions(by, wanted, page)).items


def made(promotions: list[Promotion]) -> list[str]:
    """The RIDs of the versions that promotions made."""
    return [promotion.model_version_rid for promotion in promotions]


# Where a branch goes on


def test_a_branch_that_does_not_exist_begins_with_1_and_has_no_head(repository: SqlRepository) -> None:
    model = add_model(repository)

    end = repository.read(lambda reader: branch_end(reader, model.rid, "new"))

    assert end == BranchEnd(1, None)


def test_a_branch_goes_on_behind_its_head(timed: SqlRepository) -> None:
    model = add_model(timed)
    append(timed, builders.version(model.rid, label="old"))
    head = append(timed, builders.version(model.rid))
    append(timed, builders.version(model.rid, "other"))
    digest = timed.read(lambda reader: reader.find_version(head.rid, ADMIN)).content_digest

    end = timed.read(lambda reader: branch_end(reader, model.rid))

    assert end._replace(key=None) == BranchEnd(3, Head(head.rid, digest, NOW_MS))
    assert timed.write(lambda tx: _locked_and_appended(tx, model.rid)) == end


def _locked_and_appended(tx: Transaction, model_rid: str) -> BranchEnd:
    lock(tx, model_rid)
    end = branch_end(tx, model_rid)
    version = builders.version(model_rid)
    assert tx.append_version(version, tx.put_content(version), branch=end).version_number == end.next_number
    return end


def test_transactions_that_extend_one_branch_wait_for_each_other(repository: SqlRepository) -> None:
    model = add_model(repository)

    ends = at_once(8, lambda _: repository.write(lambda tx: _locked_and_appended(tx, model.rid)))

    assert sorted(end.next_number for end in ends) == list(range(1, 9))
    heads = {end.head.rid if end.head else None for end in ends}
    assert len(heads) == 8


def test_who_holds_branches_and_extends_them_gets_the_next_numbers(repository: SqlRepository) -> None:
    model = add_model(repository)

    def change(tx: Transaction) -> list[int]:
        lock(tx, model.rid)
        return [_locked_and_appended(tx, model.rid).next_number for _ in range(2)]

    taken = at_once(4, lambda _: repository.write(change))
    assert sorted(number for numbers in taken for number in numbers) == list(range(1, 9))
    assert all(second == first + 1 for first, second in taken)


def test_a_version_is_found_by_its_number_where_its_model_is_seen(repository: SqlRepository) -> None:
    model = add_model(repository)
    first, second = (append(repository, builders.version(model.rid)) for _ in range(2))
    builders.grant(repository, model.rid, "user:jane", ROLE_VIEWER)

    def found(branch: str, number: int, by: Caller = JANE) -> ModelVersion | None:
        stored = repository.read(lambda reader: reader.find_numbered_version(model.rid, branch, number, by))
        return stored and stored.version

    assert found("master", 1) == first
    assert found("master", 2) == second
    assert found("master", 3) is None
    assert found("master", 0) is None
    assert found("other", 1) is None
    assert found("master", 1, caller("user:joe")) is None


# Policies


def test_the_policy_of_a_folder_holds_for_the_branches_of_its_name_beside_their_own(timed: SqlRepository) -> None:
    model = add_model(timed)
    folder = model.parent_folder_rid
    rules = BranchPolicy(folder_rid=folder, branch="master", promotion_only=True)
    unset = timed.read(lambda reader: reader.get_policy(folder, "master"))
    for revision in (1, 2):
        rules.revision = revision
        set_ = timed.write(lambda tx: tx.add_policy(rules, "user:jane"))

    assert unset == BranchPolicy(folder_rid=folder, branch="master")
    assert (set_.changed_by, set_.changed_time) == ("user:jane", builders.timestamp(NOW_MS))
    assert timed.read(lambda reader: reader.get_policy(folder, "master")) == set_
    listed = timed.read(lambda reader: reader.list_policies(folder, "master", PageRequest(1)))
    assert (listed.items, listed.next_position) == ([set_], 2)
    of_branch, of_folder = timed.read(lambda reader: branch_end(reader, model.rid)).policies
    assert of_branch == BranchPolicy(compatibility=COMPATIBILITY_MODE_WARN)
    assert of_folder == BranchPolicy(folder_rid=folder, promotion_only=True, revision=2)
    elsewhere = add_model(timed, folder="ri.compass.main.folder.elsewhere")
    assert len(timed.read(lambda reader: branch_end(reader, elsewhere.rid)).policies) == 1


def test_the_newest_policy_of_a_branch_holds_and_the_earlier_ones_stay(
    timed: SqlRepository, clock: Clock, migrated_url: str
) -> None:
    model = add_model(timed)
    unset = timed.read(lambda reader: reader.get_policy(model.rid, "master"))
    timed.write(lambda tx: tx.add_policy(builders.policy(model.rid, COMPATIBILITY_MODE_OFF), "user:joe"))
    clock.now_ms += 1

    set_ = timed.write(
        lambda tx: tx.add_policy(
            builders.policy(model.rid, COMPATIBILITY_MODE_ENFORCE, 2, promotion_only=True), "user:jane"
        )
    )

    assert unset == BranchPolicy(model_rid=model.rid, branch="master", compatibility=COMPATIBILITY_MODE_WARN)
    assert set_ == BranchPolicy(
        model_rid=model.rid,
        branch="master",
        compatibility=COMPATIBILITY_MODE_ENFORCE,
        changed_by="user:jane",
        changed_time=builders.timestamp(NOW_MS + 1),
        revision=2,
        promotion_only=True,
    )
    assert timed.read(lambda reader: reader.get_policy(model.rid, "master")) == set_
    assert timed.read(lambda reader: reader.get_policy(model.rid, "other")).compatibility == COMPATIBILITY_MODE_WARN
    rules = BranchPolicy(compatibility=COMPATIBILITY_MODE_ENFORCE, promotion_only=True, revision=2)
    assert timed.read(lambda reader: branch_end(reader, model.rid)).policies == (rules,)
    changes = [(row.changed_by, row.compatibility, row.changed_time) for row in rows(migrated_url, branch_policies)]
    assert changes == [
        ("user:joe", COMPATIBILITY_MODE_OFF, NOW_MS),
        ("user:jane", COMPATIBILITY_MODE_ENFORCE, NOW_MS + 1),
    ]


def test_a_policy_of_the_release_before_has_the_number_of_those_up_to_it_as_its_revision(
    repository: SqlRepository, migrated_url: str
) -> None:
    """Servers of that release store none, and go on working while this one is brought in."""
    model = add_model(repository)
    repository.write(lambda tx: tx.add_policy(builders.policy(model.rid, COMPATIBILITY_MODE_OFF), "user:joe"))
    stored = (
        "INSERT INTO branch_policies (model_id, branch, compatibility, changed_by, changed_time)"
        f" SELECT id, 'master', {COMPATIBILITY_MODE_ENFORCE}, 'user:jane', 0 FROM models WHERE rid = '{model.rid}'"
    )
    with open_engine(migrated_url).begin() as connection:
        connection.execute(text(stored))

    policy = BranchPolicy(compatibility=COMPATIBILITY_MODE_ENFORCE, revision=2)
    assert repository.read(lambda reader: branch_end(reader, model.rid)).policies == (policy,)
    assert repository.read(lambda reader: reader.get_policy(model.rid, "master")).revision == 2


# Verdicts


def findings(message: str = "gone") -> Promotion:
    finding = CompatibilityFinding(
        path='inputs["a"]', rule=COMPATIBILITY_RULE_REMOVED, severity=SEVERITY_ERROR, message=message
    )
    return Promotion(findings=[finding], error_count=1, warning_count=2)


def test_a_verdict_is_found_by_both_contents_and_the_rules(repository: SqlRepository) -> None:
    model = add_model(repository)

    def change(tx: Transaction) -> tuple[Comparison, Verdict]:
        head, candidate = (tx.put_content(builders.version(model.rid, label=label)) for label in ("a", "b"))
        comparison = Comparison(head, candidate, 1)
        assert tx.find_verdict(comparison) is None
        return comparison, tx.add_verdict(comparison, findings())

    comparison, verdict = repository.write(change)

    assert verdict.error_count == 1
    assert repository.read(lambda reader: reader.find_verdict(comparison)) == verdict
    assert repository.read(lambda reader: reader.get_findings(verdict)) == findings()
    mirrored = Comparison(comparison.candidate_digest, comparison.head_digest, 1)
    for other in (mirrored, comparison._replace(rules=2)):
        assert repository.read(lambda reader, other=other: reader.find_verdict(other)) is None


def test_a_model_api_is_read_by_its_content(repository: SqlRepository) -> None:
    version = builders.version(add_model(repository).rid, label="fraud")
    append(repository, version)
    digest = repository.read(lambda reader: reader.find_version(version.rid, ADMIN)).content_digest

    assert repository.read(lambda reader: reader.get_model_api(digest)) == version.model_api


# Requests with an id

KEY = RequestKey("user:jane", "PromoteVersion", "8a3c3bbd-4f3f-4a26-9d8b-0b2b0c4b2f6c")


def test_a_request_is_claimed_once_and_later_ones_learn_what_it_made(repository: SqlRepository) -> None:
    first, other = RequestRecord(b"digest", ("ri.a", "ri.b")), RequestRecord(b"other", ("ri.c",))
    assert repository.read(lambda reader: reader.find_request(KEY)) is None

    assert repository.write(lambda tx: tx.claim_request(KEY, first)) is None

    assert repository.write(lambda tx: tx.claim_request(KEY, other)) == first
    assert repository.read(lambda reader: reader.find_request(KEY)) == first
    for key in (
        KEY._replace(caller="user:joe"),
        KEY._replace(rpc="CreateModel"),
        KEY._replace(request_id="9a3c3bbd-4f3f-4a26-9d8b-0b2b0c4b2f6c"),
    ):
        assert repository.write(lambda tx, key=key: tx.claim_request(key, other)) is None


def test_a_request_that_failed_is_not_remembered(repository: SqlRepository) -> None:
    def give_up(tx: Transaction) -> None:
        tx.claim_request(KEY, RequestRecord(b"digest", ("ri.a",)))
        raise GivenUp

    with pytest.raises(GivenUp):
        repository.write(give_up)

    assert repository.read(lambda reader: reader.find_request(KEY)) is None


def test_of_requests_that_arrive_at_once_one_is_the_first(repository: SqlRepository) -> None:
    def claim(number: int) -> RequestRecord | None:
        return repository.write(lambda tx: tx.claim_request(KEY, RequestRecord(b"digest", (f"ri.{number}",))))

    answers = at_once(8, claim)

    first = repository.read(lambda reader: reader.find_request(KEY))
    assert answers.count(None) == 1
    assert answers.count(first) == 7
    assert first.results == (f"ri.{answers.index(None)}",)


# Records


class Chain:
    """Two models, and a version of the first that was promoted into the second, twice and then rolled back."""

    def __init__(self, repository: SqlRepository):
        self.source_model, self.target = add_model(repository), add_model(repository)
        self.source = append(repository, builders.version(self.source_model.rid))
        self.first = promote(repository, self.source, self.target.rid, reason="because")
        self.second = promote(repository, self.source, self.target.rid)


def test_a_promotion_is_found_with_all_that_is_known_of_it(timed: SqlRepository) -> None:
    chain = Chain(timed)

    second, first = listed(timed)

    assert rids.rid_type(first.rid) == "promotion"
    assert first == Promotion(
        rid=first.rid,
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=chain.source_model.rid,
        source_model_version_rid=chain.source.rid,
        model_rid=chain.target.rid,
        branch="master",
        model_version_rid=chain.first.rid,
        version_number=1,
        created_by=ADMIN.user,
        reason="because",
        created_time=builders.timestamp(NOW_MS),
    )
    assert (second.model_version_rid, second.version_number) == (chain.second.rid, 2)
    assert second.replaced_version_rid == chain.first.rid
    assert not second.HasField("reason")
    for promotion in (first, second):
        assert timed.read(lambda reader, rid=promotion.rid: reader.find_promotion(rid, ADMIN)) == promotion
        version_rid = promotion.model_version_rid
        assert timed.read(lambda reader, rid=version_rid: reader.get_promotion_rid(rid)) == promotion.rid


def record(repository: SqlRepository, version: ModelVersion, verdict: Verdict | None, reason: str | None = None) -> str:
    """Store a version that a rollback to itself made, and return the RID of that."""
    rid = rids.new_promotion_rid()
    promotion = Promotion(
        rid=rid,
        kind=PROMOTION_KIND_ROLLBACK,
        source_model_rid=version.model_rid,
        source_model_version_rid=version.rid,
        reason=reason,
    )
    repository.write(lambda tx: tx.append_promoted(version, tx.put_content(version), promotion, verdict))
    return rid


def test_a_promotion_has_the_findings_of_its_verdict(repository: SqlRepository) -> None:
    version = append(repository, builders.version(add_model(repository).rid))
    digest = repository.read(lambda reader: reader.find_version(version.rid, ADMIN)).content_digest
    verdict = repository.write(lambda tx: tx.add_verdict(Comparison(digest, digest, 1), findings()))

    rid = record(repository, builders.version(version.model_rid), verdict)

    found = repository.read(lambda reader: reader.find_promotion(rid, ADMIN))
    assert found is not None
    assert (found.kind, found.error_count, found.warning_count) == (PROMOTION_KIND_ROLLBACK, 1, 2)
    assert found.findings == findings().findings
    assert listed(repository) == [found]


def test_a_promotion_is_seen_where_its_target_is_and_its_source_where_that_is(repository: SqlRepository) -> None:
    chain = Chain(repository)
    rid = listed(repository)[0].rid

    def seen() -> Promotion | None:
        found = repository.read(lambda reader: reader.find_promotion(rid, JANE))
        assert listed(repository, JANE)[:1] == ([] if found is None else [found])
        return found

    builders.grant(repository, chain.source_model.rid, "user:jane", ROLE_OWNER)
    assert seen() is None
    builders.grant(repository, chain.target.rid, "user:jane", ROLE_VIEWER)
    whole = seen()
    assert whole is not None
    assert (whole.source_model_rid, whole.source_model_version_rid) == (chain.source_model.rid, chain.source.rid)
    builders.revoke(repository, chain.source_model.rid, "user:jane")
    blanked = seen()
    whole.ClearField("source_model_rid")
    whole.ClearField("source_model_version_rid")
    assert blanked == whole


def test_a_source_that_is_not_stored_is_unset(repository: SqlRepository) -> None:
    version = builders.version(add_model(repository).rid)
    absent = PromotedSource(
        previous_model_rid=rids.new_model_rid(), previous_model_version_rid=rids.new_model_version_rid()
    )
    version.source.CopyFrom(ModelVersionSource(promoted=absent))
    promotion = Promotion(
        rid=rids.new_promotion_rid(),
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=absent.previous_model_rid,
        source_model_version_rid=absent.previous_model_version_rid,
    )

    builders.append_imported(repository, version, promotion)

    [found] = listed(repository)
    assert (found.model_version_rid, found.HasField("source_model_version_rid")) == (version.rid, False)
    assert listed(repository, wanted=PromotionFilter(source_rid=absent.previous_model_version_rid)) == []


def test_each_filter_lets_its_own_promotions_through(timed: SqlRepository, clock: Clock) -> None:
    joe = caller("user:joe")
    dev, stage, live = (add_model(timed) for _ in range(3))
    for model in (dev, stage, live):
        builders.grant(timed, model.rid, "user:joe", ROLE_OWNER)
    one, other = (append(timed, builders.version(dev.rid)) for _ in range(2))
    a = promote(timed, one, stage.rid)
    clock.now_ms += 1000
    b = promote(timed, other, live.rid, branch="hotfix")
    clock.now_ms += 1000
    c = promote(timed, a, live.rid, by=joe)

    def found(**wanted: str | int) -> list[str]:
        return made(listed(timed, wanted=PromotionFilter(**wanted)))

    assert found() == [c.rid, b.rid, a.rid]
    assert found(model_rid=live.rid) == [c.rid, b.rid]
    assert found(model_rid=live.rid, branch="hotfix") == [b.rid]
    assert found(branch="master") == [c.rid, a.rid]
    assert found(source_rid=one.rid) == [a.rid]
    assert found(source_rid=a.rid) == [c.rid]
    assert found(version_rid=b.rid) == [b.rid]
    assert found(version_rid=one.rid) == []
    assert found(created_by="user:joe") == [c.rid]
    assert found(since_ms=NOW_MS + 1000) == [c.rid, b.rid]
    assert found(until_ms=NOW_MS + 1000) == [a.rid]
    assert found(since_ms=NOW_MS + 1, until_ms=NOW_MS + 2000) == [b.rid]
    assert found(created_by="user:joe", model_rid=stage.rid) == []


def test_by_a_source_that_the_caller_may_not_see_none_is_found(repository: SqlRepository) -> None:
    chain = Chain(repository)
    builders.grant(repository, chain.target.rid, "user:jane", ROLE_VIEWER)
    wanted = PromotionFilter(source_rid=chain.source.rid)

    assert listed(repository, JANE, wanted) == []
    builders.grant(repository, chain.source_model.rid, "user:jane", ROLE_VIEWER)
    assert made(listed(repository, JANE, wanted)) == [chain.second.rid, chain.first.rid]


@pytest.mark.parametrize("page_size", [1, 2, 3, 10])
def test_promotions_are_listed_newest_first_page_by_page(timed: SqlRepository, clock: Clock, page_size: int) -> None:
    """Also where several were made in one millisecond; those that come meanwhile do not shift a later page."""
    source = append(timed, builders.version(add_model(timed).rid))
    target = add_model(timed)
    promoted = []
    for number in range(7):
        clock.now_ms += number % 2
        promoted.append(promote(timed, source, target.rid).rid)
    found: list[str] = []
    after = None
    while True:
        request = PageRequest(page_size, after)
        page = timed.read(lambda reader, request=request: reader.list_promotions(ADMIN, EVERYTHING, request))
        found += made(page.items)
        assert len(page.items) <= page_size
        if page.next_position is None:
            break
        after = page.next_position
        promote(timed, source, target.rid)

    assert found == promoted[::-1]


def in_order(
    repository: SqlRepository, position: Position | None = None, page_size: int = 10, by: Caller = ADMIN
) -> Page[Promotion]:
    """A page from the oldest promotion on, or behind a position."""
    settled, page = repository.settled_promotion(), PageRequest(page_size, position)
    return repository.read(lambda reader: reader.list_promotions_in_order(by, EVERYTHING, settled, page))


def test_in_order_there_is_always_a_position_behind_which_later_promotions_are_found(
    timed: SqlRepository, clock: Clock
) -> None:
    """From the very beginning on; and by the order of storing, whatever time a promotion has."""
    source = append(timed, builders.version(add_model(timed).rid))
    target = add_model(timed)
    position = in_order(timed).next_position
    promoted, found = [], []
    for _ in range(3):
        for _ in range(3):
            # In other branches, so that the time of none is bound to that of the one before.
            clock.now_ms -= 1
            imported = builders.version(target.rid, branch=f"b{clock.now_ms}")
            imported.created_time.CopyFrom(builders.timestamp(clock.now_ms))
            imported.source.promoted.previous_model_rid = source.model_rid
            imported.source.promoted.previous_model_version_rid = source.rid
            promotion = Promotion(
                rid=rids.new_promotion_rid(), source_model_rid=source.model_rid, source_model_version_rid=source.rid
            )
            promoted.append(builders.append_imported(timed, imported, promotion).rid)
        while len(found) < len(promoted):
            page = in_order(timed, position, page_size=2)
            assert page.items
            found += made(page.items)
            position = page.next_position
        empty = in_order(timed, position)
        assert empty.items == []
        position = empty.next_position

    assert found == promoted


def test_positions_in_order_tell_nothing_of_promotions_that_the_caller_does_not_see(repository: SqlRepository) -> None:
    """No two are alike, whether something was promoted in between or not."""
    Chain(repository)
    positions = [in_order(repository, by=JANE).next_position for _ in range(3)]
    Chain(repository)
    positions.append(in_order(repository, positions[0], by=JANE).next_position)

    assert len(set(positions)) == 4
    assert len({len(str(position)) for position in positions}) == 1


def test_in_order_a_position_behind_a_promotion_that_was_lost_is_refused(
    migrated_url: str, repository: SqlRepository
) -> None:
    """Where another one has got its key by now, or none has."""
    chain = Chain(repository)
    page = in_order(repository)
    alter(migrated_url, update(promotions).values(rid=func.replace(promotions.c.rid, "-", "-0")))
    with pytest.raises(InvalidPageToken):
        in_order(repository, page.next_position)
    alter(migrated_url, delete(promotions).where(promotions.c.id > 1))
    with pytest.raises(InvalidPageToken):
        in_order(repository, page.next_position)
    assert made(in_order(repository).items) == [chain.first.rid]


@pytest.mark.parametrize("page_ends_at", ["", "1", "a promotion", "A" * 21, "ä", "a position of the other order"])
def test_a_position_in_order_that_no_such_list_handed_out_is_refused(
    repository: SqlRepository, page_ends_at: str
) -> None:
    Chain(repository)
    other = repository.read(lambda reader: reader.list_promotions(ADMIN, EVERYTHING, PageRequest(1)))
    given = {"a promotion": other.items[0].rid, "a position of the other order": other.next_position}

    with pytest.raises(InvalidPageToken):
        in_order(repository, given.get(page_ends_at, page_ends_at))


@pytest.mark.parametrize("page_ends_at", ["", "1", "a promotion", "A" * 21, "ä"])
def test_a_position_that_no_list_handed_out_is_refused(repository: SqlRepository, page_ends_at: str) -> None:
    """Also one that names a promotion: whether it is there, the caller may not be allowed to know."""
    Chain(repository)
    position = listed(repository)[0].rid if page_ends_at == "a promotion" else page_ends_at

    with pytest.raises(InvalidPageToken):
        repository.read(lambda reader: reader.list_promotions(ADMIN, EVERYTHING, PageRequest(2, position)))


def test_a_page_of_large_promotions_ends_early_but_never_empty(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    message_bytes = 64 * 2**10
    repository = open_repository(migrated_url, max_message_bytes=message_bytes)
    model = add_model(repository)
    version = append(repository, builders.version(model.rid))
    digest = repository.read(lambda reader: reader.find_version(version.rid, ADMIN)).content_digest
    sizes = [100, 30_000, 30_000, 100, 100, 70_000, 100]
    expected = []
    for size in sizes:
        found = findings("x" * size)
        verdict = repository.write(lambda tx, found=found: tx.add_verdict(Comparison(digest, digest, 1), found))
        expected.append(record(repository, builders.version(model.rid), verdict, reason="\U0001d4b3" * 1024))

    pages = []
    after = None
    while True:
        request = PageRequest(1000, after)
        page = repository.read(lambda reader, request=request: reader.list_promotions(ADMIN, EVERYTHING, request))
        assert page.items
        pages.append(page.items)
        if page.next_position is None:
            break
        after = page.next_position

    assert [promotion.rid for items in pages for promotion in items] == expected[::-1]
    assert all(len(promotion.findings) == 1 for items in pages for promotion in items)
    assert 1 < len(pages) < len(sizes)
    for items in pages:
        assert len(items) == 1 or ListPromotionsResponse(promotions=items).ByteSize() <= message_bytes


def test_of_a_model_only_its_own_promotions_count_as_replaced(repository: SqlRepository) -> None:
    source: ModelVersion = append(repository, builders.version(add_model(repository).rid))
    models: list[Model] = [add_model(repository) for _ in range(2)]

    for model in models:
        promote(repository, source, model.rid)
        promote(repository, source, model.rid, branch="other")

    assert not any(promotion.HasField("replaced_version_rid") for promotion in listed(repository))
