"""Lists of promotions, of which a caller sees many or few: every walk finds the same. On every backend."""

from __future__ import annotations

import random

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.promotion_pb2 import Promotion
from server.core.caller import Caller
from server.storage.contract import PromotionFilter
from server.storage.paging import PageRequest
from server.storage.sql import promotion_records, promotions_in_order
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, ALL, add_model, append, caller, promote
from tests.storage.conftest import Clock

MODELS, PROMOTIONS = 6, 60


class Mixed:
    """Promotions of two versions into some models, in no order, by two principals, on two branches."""

    def __init__(self, repository: SqlRepository, clock: Clock):
        chance = random.Random(3)
        self.repository = repository
        self.targets = [add_model(repository) for _ in range(MODELS)]
        model = add_model(repository)
        self.sources = [append(repository, builders.version(model.rid)) for _ in range(2)]
        builders.grant(repository, model.rid, "user:jane", ROLE_VIEWER)
        self.other_admin = Caller(principals=("user:joe",), is_admin=True)
        for _ in range(PROMOTIONS):
            clock.now_ms += chance.randrange(2)
            promote(
                repository,
                chance.choice(self.sources),
                chance.choice(self.targets).rid,
                branch=chance.choice(["master", "hotfix"]),
                by=chance.choice([ADMIN, self.other_admin]),
            )
        self.all = self.page(ADMIN, PromotionFilter(), PageRequest(ALL)).items
        assert len(self.all) == PROMOTIONS

    def page(self, by: Caller, wanted: PromotionFilter, page: PageRequest):
        return self.repository.read(lambda reader: reader.list_promotions(by, wanted, page))

    def pages(self, by: Caller, wanted: PromotionFilter, page_size: int) -> list[Promotion]:
        """All pages, of which none but the last is short."""
        found, after = [], None
        while True:
            page = self.page(by, wanted, PageRequest(page_size, after))
            found += page.items
            after = page.next_position
            if after is None:
                return found
            assert len(page.items) == page_size

    def pages_in_order(self, by: Caller, wanted: PromotionFilter, page_size: int) -> list[Promotion]:
        """All pages from the oldest promotion on, of which none but the last is short, and none is behind that."""
        found: list[Promotion] = []
        after, is_last = None, False
        while True:
            page = self.repository.read(
                lambda reader, after=after: reader.list_promotions_in_order(  # type: ignore[misc]
                    by, wanted, self.repository.settled_promotion(), PageRequest(page_size, after)
                )
            )
            assert not (is_last and page.items)
            found += page.items
            after = page.next_position
            if is_last:
                return found
            is_last = len(page.items) < page_size

    def filters(self) -> list[tuple[PromotionFilter, list[Promotion]]]:
        """Filters by one thing and by two, and what they let through."""
        source, model, made = self.sources[0].rid, self.targets[0].rid, self.all[7].model_version_rid
        middle = self.all[PROMOTIONS // 2].created_time.ToMilliseconds()
        single = [
            (PromotionFilter(source_rid=source), lambda each: each.source_model_version_rid == source),
            (PromotionFilter(model_rid=model), lambda each: each.model_rid == model),
            (PromotionFilter(version_rid=made), lambda each: each.model_version_rid == made),
            (PromotionFilter(created_by="user:joe"), lambda each: each.created_by == "user:joe"),
            (PromotionFilter(branch="hotfix"), lambda each: each.branch == "hotfix"),
            (PromotionFilter(since_ms=middle), lambda each: each.created_time.ToMilliseconds() >= middle),
            (PromotionFilter(until_ms=middle), lambda each: each.created_time.ToMilliseconds() < middle),
        ]
        pairs = [
            (_both(one, other), [each for each in self.all if passes(each) and passes_too(each)])
            for one, passes in single
            for other, passes_too in single
        ]
        return [(PromotionFilter(), self.all), *pairs]


def _both(one: PromotionFilter, other: PromotionFilter) -> PromotionFilter:
    return PromotionFilter(*(first if first is not None else second for first, second in zip(one, other, strict=True)))


@pytest.mark.parametrize("many", [1000, 0], ids=["few models", "many models"])
@pytest.mark.parametrize("sees", [0, 1, 5])
def test_every_walk_finds_what_the_caller_sees_and_wants(
    timed: SqlRepository, clock: Clock, monkeypatch: pytest.MonkeyPatch, sees: int, many: int
) -> None:
    """Whether her models are few enough to be looked into one by one, or the walk goes on past the others."""
    monkeypatch.setattr(promotion_records, "MAX_NAMED", many)
    mixed = Mixed(timed, clock)
    visible = {model.rid for model in mixed.targets[:sees]}
    for rid in visible:
        builders.grant(timed, rid, "user:jane", ROLE_VIEWER)

    for wanted, everything in mixed.filters():
        seen = [promotion for promotion in everything if promotion.model_rid in visible]
        for page_size in (1, 3):
            assert mixed.pages(caller("user:jane"), wanted, page_size) == seen, wanted
        assert mixed.pages(ADMIN, wanted, 7) == everything, wanted


@pytest.mark.parametrize("many", [1000, 0], ids=["few models", "many models"])
@pytest.mark.parametrize("sees", [0, 1, 5])
def test_so_does_every_walk_in_the_order_of_storing(
    timed: SqlRepository, clock: Clock, monkeypatch: pytest.MonkeyPatch, sees: int, many: int
) -> None:
    monkeypatch.setattr(promotions_in_order, "MAX_NAMED", many)
    mixed = Mixed(timed, clock)
    visible = {model.rid for model in mixed.targets[:sees]}
    for rid in visible:
        builders.grant(timed, rid, "user:jane", ROLE_VIEWER)

    for wanted, everything in mixed.filters():
        seen = [promotion for promotion in reversed(everything) if promotion.model_rid in visible]
        for page_size in (1, 3):
            assert mixed.pages_in_order(caller("user:jane"), wanted, page_size) == seen, wanted
        assert mixed.pages_in_order(ADMIN, wanted, 7) == everything[::-1], wanted
