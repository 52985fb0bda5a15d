"""Readers that go on from where their last page has ended, and what they must have seen in the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import Any

from modelregistry.v1.list_order_pb2 import LIST_ORDER_OLDEST_FIRST
from modelregistry.v1.promotion_pb2 import Promotion
from tests.rpc.harness import User


class Follower(ABC):
    """A reader of one list, oldest first. `seen` is what it has seen, in that order."""

    def __init__(self, page_size: int = 0) -> None:
        self.page_size = page_size
        self.seen: list[Any] = []
        self._place = ""

    def go_on(self, user: User) -> int:
        """Read one page more, and return how much was on it. Raises grpc.RpcError, and can go on then."""
        items, self._place = self._page(user, self._place)
        self.seen += items
        return len(items)

    def catch_up(self, user: User) -> None:
        """Go on until nothing is left."""
        while self.go_on(user):
            pass

    @abstractmethod
    def _page(self, user: User, place: str) -> tuple[list[Any], str]:
        """The page behind a place, and where the next one begins."""

    @abstractmethod
    def all_names(self, user: User) -> list[str]:
        """The names of all that there is, by the list of the other order, turned round."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """What is called what it has seen, each of it by a name of its own."""

    @property
    @abstractmethod
    def promotions(self) -> list[Promotion]:
        """The promotions among what it has seen."""

    @property
    def promoted(self) -> list[str]:
        """The RIDs of the versions that these have made."""
        return [promotion.model_version_rid for promotion in self.promotions]

    def require_all(self, user: User, made: set[str]) -> None:
        """See that it has caught up with everything, once each, and that the promotions are those that made these."""
        assert sorted(self.names) == sorted(self.all_names(user))
        assert len(self.promoted) == len(set(self.promoted))
        assert set(self.promoted) == made
        numbers = defaultdict(list)
        for promotion in self.promotions:
            numbers[promotion.model_rid, promotion.branch].append(promotion.version_number)
        for place, found in numbers.items():
            assert found == sorted(found), (place, found)


class PromotionFollower(Follower):
    """A reader of ListPromotions, which goes on from its page tokens."""

    def _page(self, user: User, place: str) -> tuple[list[Any], str]:
        given = {"page_token": place} if place else {}
        page = user("ListPromotions", order=LIST_ORDER_OLDEST_FIRST, page_size=self.page_size, **given)
        return list(page.promotions), page.next_page_token

    def all_names(self, user: User) -> list[str]:
        found: list[str] = []
        token: str | None = None
        while token != "":
            page = user("ListPromotions", page_size=1000, **({"page_token": token} if token else {}))
            found += [promotion.rid for promotion in page.promotions]
            token = page.next_page_token
        return found[::-1]

    @property
    def names(self) -> list[str]:
        return [promotion.rid for promotion in self.seen]

    @property
    def promotions(self) -> list[Promotion]:
        return self.seen


class EventFollower(Follower):
    """A reader of ListEvents, which goes on from its cursors."""

    def _page(self, user: User, place: str) -> tuple[list[Any], str]:
        given = {"after_cursor": place} if place else {}
        page = user("ListEvents", order=LIST_ORDER_OLDEST_FIRST, page_size=self.page_size, **given)
        return list(page.events), page.cursor

    def all_names(self, user: User) -> list[str]:
        found: list[str] = []
        token: str | None = None
        while token != "":
            page = user("ListEvents", page_size=1000, **({"page_token": token} if token else {}))
            found += [event.id for event in page.events]
            token = page.next_page_token
        return found[::-1]

    @property
    def names(self) -> list[str]:
        return [event.id for event in self.seen]

    @property
    def promotions(self) -> list[Promotion]:
        return [event.subject.promotion for event in self.seen if event.subject.HasField("promotion")]


FOLLOWERS: list[type[Follower]] = [PromotionFollower, EventFollower]
