"""Yanks, what they stop, and where versions are live. Each test runs on every backend."""

from __future__ import annotations

import itertools
import uuid

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, Promotion
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_LINEAGE, YANK_SCOPE_VERSION, LiveCopy, Yank, YankScope
from server.core import rids
from server.core.caller import Caller
from server.core.errors import InvalidPageToken, ModelVersionNotFound, VersionYanked
from server.storage.contract import Reader, WantedPromotion
from server.storage.paging import PageRequest, Position
from server.storage.sql import recalls
from server.storage.sql.repository import SqlRepository
from server.storage.sql.unit_of_work import ENVELOPE_BYTES
from tests import builders
from tests.builders import ADMIN, ALL, add_model, all_versions, append, append_imported, caller, grant, promote
from tests.conftest import OpenRepository
from tests.storage.conftest import NOW_MS
from tests.storage.inspection import statements

JANE = caller("user:jane")


def yank(
    repository: SqlRepository,
    version: ModelVersion,
    scope: YankScope.ValueType = YANK_SCOPE_VERSION,
    reason: str = "poisoned",
) -> Yank:
    new = Yank(
        rid=rids.new_yank_rid(),
        model_rid=version.model_rid,
        model_version_rid=version.rid,
        scope=scope,
        reason=reason,
        yanked_by="user:joe",
    )
    return repository.write(lambda tx: tx.add_yank(new))


def take_back(repository: SqlRepository, taken_back: Yank, reason: str | None = None, by: str = "user:ann") -> None:
    repository.write(lambda tx: tx.take_yank_back(taken_back, reason, by))


def find(repository: SqlRepository, taken_back: Yank, by: Caller = ADMIN) -> Yank | None:
    return repository.read(lambda reader: reader.find_yank(taken_back.rid, by))


def is_yanked(repository: SqlRepository, version: ModelVersion) -> bool:
    found = repository.read(lambda reader: reader.find_version(version.rid, ADMIN))
    assert found is not None
    return found.is_yanked


def stopping(
    repository: SqlRepository, version: ModelVersion, by: Caller = ADMIN, into: str | None = None
) -> Yank | None:
    """What stops a promotion of a version."""
    wanted = WantedPromotion(into or version.model_rid, "master", version.rid, 1)
    return repository.read(lambda reader: reader.get_promotion_facts(wanted, by).yank)


def chain(repository: SqlRepository, length: int) -> list[ModelVersion]:
    """Versions of one branch, each promoted from the one before."""
    model = add_model(repository)
    versions = [append(repository, builders.version(model.rid))]
    for _ in range(length - 1):
        versions.append(promote(repository, versions[-1], model.rid))
    return versions


def listed(repository: SqlRepository, version: ModelVersion, by: Caller = ADMIN, page_size: int = ALL) -> list[Yank]:
    """All yanks in the lineage of a version, page by page."""
    found: list[Yank] = []
    after: Position | None = None
    while True:
        wanted = PageRequest(page_size, after)
        page = repository.read(lambda reader, wanted=wanted: reader.list_yanks(version.rid, by, wanted))
        assert len(page.items) == page_size or page.next_position is None
        found += page.items
        if page.next_position is None:
            return found
        after = page.next_position


def copies(
    repository: SqlRepository, version: ModelVersion, by: Caller = ADMIN, page_size: int = ALL
) -> list[LiveCopy]:
    """All live copies of a version, page by page."""
    found: list[LiveCopy] = []
    after: Position | None = None
    totals = []
    while True:
        wanted = PageRequest(page_size, after)
        answer = repository.read(lambda reader, wanted=wanted: reader.list_live_copies(version.rid, by, wanted))
        found += answer.page.items
        totals.append((len(answer.page.items), answer.remaining))
        if answer.page.next_position is None:
            # What each page said that it and those behind it have.
            assert totals == [(count, sum(n for n, _ in totals[place:])) for place, (count, _) in enumerate(totals)]
            return found
        after = answer.page.next_position


# Yanks


def test_a_yank_is_recorded_with_its_time_and_found(timed: SqlRepository) -> None:
    [version] = chain(timed, 1)
    yanked = yank(timed, version, YANK_SCOPE_LINEAGE, "poisoned\nby line 7")
    assert yanked == Yank(
        rid=yanked.rid,
        model_rid=version.model_rid,
        model_version_rid=version.rid,
        scope=YANK_SCOPE_LINEAGE,
        reason="poisoned\nby line 7",
        yanked_by="user:joe",
        yanked_time=builders.timestamp(NOW_MS),
    )
    assert find(timed, yanked) == yanked
    assert find(timed, Yank(rid=rids.new_yank_rid())) is None


def test_a_yank_is_taken_back_once(timed: SqlRepository) -> None:
    [version] = chain(timed, 1)
    yanked, other = yank(timed, version), yank(timed, version)
    take_back(timed, yanked, "a mistake")
    yanked.unyanked_by, yanked.unyank_reason = "user:ann", "a mistake"
    yanked.unyanked_time.CopyFrom(builders.timestamp(NOW_MS))
    assert find(timed, yanked) == yanked
    take_back(timed, yanked, "again", "user:bob")
    assert find(timed, yanked) == yanked
    take_back(timed, other)
    found = find(timed, other)
    assert found is not None
    assert (found.unyanked_by, found.HasField("unyank_reason")) == ("user:ann", False)


@pytest.mark.parametrize("scope", [YANK_SCOPE_VERSION, YANK_SCOPE_LINEAGE])
def test_a_version_is_yanked_as_long_as_one_of_its_yanks_holds(
    repository: SqlRepository, scope: YankScope.ValueType
) -> None:
    versions = chain(repository, 4)
    assert not any(is_yanked(repository, each) for each in versions)
    yanks = [yank(repository, versions[1], each) for each in (scope, scope)]
    stopped = versions if scope == YANK_SCOPE_LINEAGE else versions[1:]
    for taken_back in yanks:
        assert [each for each in versions if is_yanked(repository, each)] == stopped
        take_back(repository, taken_back)
    assert not any(is_yanked(repository, each) for each in versions)


def test_every_question_for_versions_says_which_are_yanked(repository: SqlRepository) -> None:
    versions = chain(repository, 4)
    model_rid = versions[0].model_rid
    other = promote(repository, versions[1], model_rid, branch="other")
    # What was read before is kept, and yet decided anew.
    for yanked in (False, True, False):
        if yanked:
            added = yank(repository, versions[2])
        elif is_yanked(repository, versions[2]):
            take_back(repository, added)

        def ask(reader: Reader) -> tuple[list[bool], dict[str, bool], bool]:
            third = reader.find_numbered_version(model_rid, "master", 3, ADMIN)
            assert third is not None
            branches = reader.list_branches(model_rid, ADMIN, PageRequest(ALL, None)).items
            heads = {branch.name: branch.head.yanked for branch in branches}
            assert heads == {name: reader.get_branch(model_rid, name, ADMIN).head.yanked for name in heads}
            return [each.yanked for each in all_versions(reader, model_rid)], heads, third.as_seen().yanked

        heads = {"master": yanked, other.branch: False}
        assert repository.read(ask) == ([yanked, yanked, False, False], heads, yanked)


def test_what_stops_a_version_is_told_of_versions_that_the_caller_may_see(repository: SqlRepository) -> None:
    root, *_ = chain(repository, 1)
    between, mine = add_model(repository), add_model(repository)
    grant(repository, mine.rid, "user:jane", ROLE_VIEWER)
    seen = promote(repository, root, between.rid)
    version = promote(repository, seen, mine.rid)
    assert stopping(repository, version, JANE) is None
    hidden = yank(repository, root)
    assert stopping(repository, version, JANE) == Yank()
    assert stopping(repository, version) == hidden
    of_lineage = yank(repository, seen, YANK_SCOPE_LINEAGE)
    assert stopping(repository, version, JANE) == Yank()
    assert stopping(repository, version) == of_lineage
    grant(repository, between.rid, "user:jane", ROLE_VIEWER)
    assert stopping(repository, version, JANE) == of_lineage
    own = yank(repository, version)
    assert stopping(repository, version, JANE) == own
    take_back(repository, own)
    take_back(repository, of_lineage)
    assert stopping(repository, version, JANE) == Yank()


def test_what_is_younger_stops_no_version_however_many_ancestors_that_has(
    repository: SqlRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may promote from a lineage could stop all of it otherwise, by a yank of a copy of its own."""
    monkeypatch.setattr(recalls, "MAX_WALKED", 4)
    versions = chain(repository, 6)
    yank(repository, promote(repository, versions[0], versions[0].model_rid, branch="aside"))
    assert not any(is_yanked(repository, each) for each in versions)
    assert not any(each.yanked for each in repository.read(lambda reader: all_versions(reader, versions[0].model_rid)))


def test_a_version_whose_ancestors_are_too_many_counts_as_yanked_where_an_older_one_is(
    repository: SqlRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalls, "MAX_WALKED", 4)
    versions = chain(repository, 1)
    aside = promote(repository, versions[0], versions[0].model_rid, branch="aside")
    for _ in range(6):
        versions.append(promote(repository, versions[-1], versions[0].model_rid))
    added = yank(repository, aside)
    # The first one is older than what is yanked, and not walked.
    assert [each.rid for each in versions if is_yanked(repository, each)] == [each.rid for each in versions[5:]]
    # The same whatever is asked along with it.
    several = repository.read(lambda reader: all_versions(reader, versions[0].model_rid))
    assert [each.rid for each in several if each.yanked] == [versions[6].rid, versions[5].rid]
    assert stopping(repository, versions[3]) is None
    assert stopping(repository, versions[5]) == Yank()
    with pytest.raises(VersionYanked):
        promote(repository, versions[5], versions[0].model_rid)
    take_back(repository, added)
    promote(repository, versions[5], versions[0].model_rid)


def test_an_imported_version_is_yanked_with_its_root_also_where_that_is_not_stored(repository: SqlRepository) -> None:
    model = add_model(repository)
    absent = rids.new_model_version_rid()
    first, second = (builders.version(model.rid) for _ in range(2))
    for new, source in ((first, absent), (second, first.rid)):
        new.root_model_version_rid = absent
        record = Promotion(
            rid=rids.new_promotion_rid(),
            kind=PROMOTION_KIND_PROMOTION,
            source_model_rid=model.rid,
            source_model_version_rid=source,
        )
        append_imported(repository, new, record)
    own = yank(repository, second)
    assert [is_yanked(repository, each) for each in (first, second)] == [False, True]
    take_back(repository, own)
    yank(repository, second, YANK_SCOPE_LINEAGE)
    assert [is_yanked(repository, each) for each in (first, second)] == [True, True]
    assert len(listed(repository, first)) == 2


def test_a_chain_that_bites_its_own_tail_is_walked_once(repository: SqlRepository) -> None:
    model = add_model(repository)
    ring = [builders.version(model.rid) for _ in range(3)]
    for new, source in zip(ring, (*ring[1:], ring[0]), strict=True):
        new.root_model_version_rid = ring[0].rid
        record = Promotion(
            rid=rids.new_promotion_rid(),
            kind=PROMOTION_KIND_PROMOTION,
            source_model_rid=model.rid,
            source_model_version_rid=source.rid,
        )
        append_imported(repository, new, record)
    aside = promote(repository, ring[0], model.rid, branch="aside")
    taken_back = yank(repository, aside)
    assert [is_yanked(repository, each) for each in (*ring, aside)] == [False, False, False, True]
    take_back(repository, taken_back)
    yank(repository, ring[1])
    assert [is_yanked(repository, each) for each in (*ring, aside)] == [True] * 4


def test_a_promotion_asks_nothing_more_where_nothing_of_the_lineage_is_yanked(repository: SqlRepository) -> None:
    def sent(source: ModelVersion) -> int:
        promote(repository, source, target.rid)
        with statements() as executed:
            promote(repository, source, target.rid)
        return len(executed)

    target = add_model(repository)
    source, yanked = chain(repository, 1)[0], chain(repository, 1)[0]
    before = sent(source)
    aside = promote(repository, yanked, target.rid, branch="aside")
    yank(repository, aside)
    assert sent(source) == before
    # Two more: what is yanked there, and its ancestors.
    assert sent(yanked) == before + 2


def test_yanks_of_a_lineage_are_listed_the_newest_first(repository: SqlRepository) -> None:
    versions, others = chain(repository, 3), chain(repository, 2)
    added = [yank(repository, each, scope) for each in versions for scope in (YANK_SCOPE_VERSION, YANK_SCOPE_LINEAGE)]
    yank(repository, others[0])
    take_back(repository, added[2], "a mistake")
    expected = [find(repository, each) for each in reversed(added)]
    for version, page_size in itertools.product(versions, (1, 4, ALL)):
        assert listed(repository, version, page_size=page_size) == expected
    assert len(listed(repository, others[1])) == 1


def test_yanks_that_are_added_meanwhile_neither_shift_nor_repeat_any(repository: SqlRepository) -> None:
    [version] = chain(repository, 1)
    added = [yank(repository, version) for _ in range(3)]
    first = repository.read(lambda reader: reader.list_yanks(version.rid, ADMIN, PageRequest(2, None)))
    yank(repository, version)
    second = repository.read(lambda reader: reader.list_yanks(version.rid, ADMIN, PageRequest(2, first.next_position)))
    assert [*first.items, *second.items] == added[::-1]


def test_yanks_of_versions_that_the_caller_may_not_see_are_left_out(repository: SqlRepository) -> None:
    [root] = chain(repository, 1)
    mine = add_model(repository)
    grant(repository, mine.rid, "user:jane", ROLE_VIEWER)
    version = promote(repository, root, mine.rid)
    hidden, seen = yank(repository, root), yank(repository, version)
    assert listed(repository, version, JANE) == [seen]
    assert find(repository, hidden, JANE) is None
    assert find(repository, seen, JANE) == seen
    assert listed(repository, version) == [seen, hidden]


def test_pages_end_where_what_they_list_would_not_fit_into_a_message(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    small = open_repository(migrated_url, max_message_bytes=ENVELOPE_BYTES + 10_000)
    [version] = chain(small, 1)
    added = [yank(small, version, reason="x" * 4096) for _ in range(3)]
    first = small.read(lambda reader: reader.list_yanks(version.rid, ADMIN, PageRequest(ALL, None)))
    rest = small.read(lambda reader: reader.list_yanks(version.rid, ADMIN, PageRequest(ALL, first.next_position)))
    assert (first.items, rest.items, rest.next_position) == (added[:0:-1], added[:1], None)

    branches = ["\U0001d4b3" * 250 + str(number) for number in range(9)]
    made = [append(small, builders.version(version.model_rid, branches[0]))]
    made += [promote(small, made[0], version.model_rid, branch=branch) for branch in branches[1:]]
    whole = PageRequest(ALL, None)
    page = small.read(lambda reader: reader.list_live_copies(made[0].rid, ADMIN, whole)).page
    assert heads(page.items) == [each.rid for each in made[: len(page.items)]]
    assert 1 < len(page.items) < len(made)
    following = PageRequest(ALL, page.next_position)
    behind = small.read(lambda reader: reader.list_live_copies(made[0].rid, ADMIN, following)).page
    assert heads(page.items + behind.items) == [each.rid for each in made]


# Live copies


class Copies:
    """dev → stage → live and canary; and beside it, dev → other. Some branches have moved on."""

    def __init__(self, repository: SqlRepository):
        self.models = {name: add_model(repository, name) for name in ("dev", "stage", "live", "canary", "other")}
        self.dev = append(repository, builders.version(self.models["dev"].rid))
        self.stage = promote(repository, self.dev, self.models["stage"].rid)
        self.other = promote(repository, self.dev, self.models["other"].rid)
        self.live = promote(repository, self.stage, self.models["live"].rid, branch="eu")
        self.canary = promote(repository, self.stage, self.models["canary"].rid)
        self.unrelated = append(repository, builders.version(self.models["dev"].rid))


def heads(found: list[LiveCopy]) -> list[str]:
    return [each.model_version_rid for each in found]


def test_live_copies_are_the_branches_whose_head_came_of_a_version(repository: SqlRepository) -> None:
    made = Copies(repository)
    assert heads(copies(repository, made.dev)) == [made.stage.rid, made.other.rid, made.live.rid, made.canary.rid]
    assert heads(copies(repository, made.stage)) == [made.stage.rid, made.live.rid, made.canary.rid]
    assert heads(copies(repository, made.live)) == [made.live.rid]
    assert heads(copies(repository, made.unrelated)) == [made.unrelated.rid]
    append(repository, builders.version(made.models["live"].rid, "eu"))
    assert copies(repository, made.live) == []
    # It stays a copy, whatever is yanked.
    yank(repository, made.dev, YANK_SCOPE_LINEAGE)
    assert heads(copies(repository, made.stage)) == [made.stage.rid, made.canary.rid]


def test_a_live_copy_says_where_it_is_and_since_when(timed: SqlRepository) -> None:
    made = Copies(timed)
    assert copies(timed, made.live) == [
        LiveCopy(
            model_rid=made.models["live"].rid,
            model_name="live",
            branch="eu",
            model_version_rid=made.live.rid,
            version_number=1,
            created_by=ADMIN.user,
            created_time=builders.timestamp(NOW_MS),
        )
    ]


def test_live_copies_come_page_by_page_in_the_order_of_their_branches(repository: SqlRepository) -> None:
    made = Copies(repository)
    for number in range(7):
        promote(repository, made.stage, made.models["live"].rid, branch=f"branch {number}")
    whole = copies(repository, made.dev)
    assert len(whole) == 11
    for page_size in (1, 4, 11):
        assert copies(repository, made.dev, page_size=page_size) == whole


def test_live_copies_that_the_caller_may_not_see_are_left_out(repository: SqlRepository) -> None:
    made = Copies(repository)
    for name in ("dev", "canary"):
        grant(repository, made.models[name].rid, "user:jane", ROLE_VIEWER)
    assert heads(copies(repository, made.dev, JANE, page_size=1)) == [made.canary.rid]


def test_what_is_invisible_is_listed_like_what_is_absent(repository: SqlRepository) -> None:
    made = Copies(repository)
    yank(repository, made.dev)
    absent = rids.new_model_version_rid()
    for ask in ("list_yanks", "list_live_copies"):
        asked = []
        for rid in (made.dev.rid, absent):
            with statements() as executed, pytest.raises(ModelVersionNotFound) as failure:
                repository.read(
                    lambda reader, ask=ask, rid=rid: getattr(reader, ask)(rid, JANE, PageRequest(ALL, None))
                )
            assert failure.value.parameters == {"modelRid": "", "modelVersionRid": rid}
            asked.append([each.statement for each in executed])
        assert asked[0] == asked[1]


def test_a_position_that_was_made_up_is_refused(repository: SqlRepository) -> None:
    made = Copies(repository)
    for ask in ("list_yanks", "list_live_copies"):
        for position in ("", "1", str(uuid.uuid4())):
            with pytest.raises(InvalidPageToken):
                repository.read(
                    lambda reader, ask=ask, position=position: getattr(reader, ask)(
                        made.dev.rid, ADMIN, PageRequest(ALL, position)
                    )
                )
