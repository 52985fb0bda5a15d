"""A clock that goes back never sorts a promotion before an older one. On every backend."""

from __future__ import annotations

from typing import NoReturn

import pytest

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from server.core.errors import StorageUnavailable
from server.storage.contract import PromotionFilter, Transaction
from server.storage.paging import PageRequest
from server.storage.sql.clock import MAX_LEAD_MS
from server.storage.sql.repository import SqlRepository, now_ms
from tests import builders
from tests.builders import ADMIN, ALL, add_model, append, promote
from tests.conftest import OpenRepository
from tests.storage.conftest import NOW_MS, Clock

HOUR_MS = 3600 * 1000


class Line:
    """Promotions of one version into models of their own, whose branches therefore put nothing in order."""

    def __init__(self, repository: SqlRepository):
        self._repository = repository
        self._source = append(repository, builders.version(add_model(repository).rid))
        self._made: list[str] = []

    def promote(self, repository: SqlRepository | None = None) -> int:
        """Promote by a repository, and return when that was, as it is stored."""
        made = promote(repository or self._repository, self._source, add_model(self._repository).rid)
        self._made.append(made.rid)
        return made.created_time.ToMilliseconds()

    def is_listed_in_order(self) -> bool:
        page = self._repository.read(lambda reader: reader.list_promotions(ADMIN, PromotionFilter(), PageRequest(ALL)))
        return [promotion.model_version_rid for promotion in page.items] == self._made[::-1]


def test_a_clock_that_goes_back_stands_still_until_it_has_caught_up(timed: SqlRepository, clock: Clock) -> None:
    line = Line(timed)
    assert line.promote() == NOW_MS
    clock.now_ms = NOW_MS - HOUR_MS
    assert [line.promote(), line.promote()] == [NOW_MS, NOW_MS]
    clock.now_ms = NOW_MS + 1
    assert line.promote() == NOW_MS + 1
    assert line.is_listed_in_order()


def test_a_process_that_starts_goes_on_from_the_newest_promotion(
    timed: SqlRepository, clock: Clock, migrated_url: str, open_repository: OpenRepository
) -> None:
    """As a server does before it serves, and with each of its calls to itself: by another server's promotions, too."""
    line = Line(timed)
    line.promote()
    behind = Clock()
    behind.now_ms = NOW_MS - HOUR_MS
    other = open_repository(migrated_url, clock_ms=behind)
    other.ping()
    assert line.promote(other) == NOW_MS
    clock.now_ms += 2000
    line.promote()
    other.ping()
    assert line.promote(other) == NOW_MS + 2000
    assert line.is_listed_in_order()


def test_a_time_that_was_refused_does_not_stick(timed: SqlRepository, clock: Clock) -> None:
    line = Line(timed)
    model = add_model(timed)
    clock.now_ms = NOW_MS + HOUR_MS

    def refuse(tx: Transaction) -> NoReturn:
        version = builders.version(model.rid)
        tx.append_version(version, tx.put_content(version))
        raise StorageUnavailable

    with pytest.raises(StorageUnavailable):
        timed.write(refuse)
    clock.now_ms = NOW_MS
    assert line.promote() == NOW_MS


def test_servers_go_on_behind_a_promotion_that_lies_ahead(
    owner_url: str, server_url: str, open_repository: OpenRepository
) -> None:
    """As one of the release before may have stored it, or one from before the clocks were put right."""
    ahead = open_repository(owner_url, clock_ms=lambda: now_ms() + HOUR_MS)
    version = append(ahead, builders.version(add_model(ahead).rid))
    promote(ahead, version, version.model_rid)
    repository = open_repository(server_url)
    model = add_model(repository)
    repository.ping()

    append(repository, builders.version(model.rid))
    builders.grant(repository, model.rid, "user:jane", ROLE_OWNER)
    assert promote(repository, version, model.rid).version_number == 2


@pytest.mark.parametrize("how", ["in the process", "as it is stored"])
def test_a_clock_that_was_wrong_far_into_the_future_does_not_stick(
    how: str, timed: SqlRepository, clock: Clock, migrated_url: str, open_repository: OpenRepository
) -> None:
    line = Line(timed)
    line.promote()
    clock.now_ms = NOW_MS + MAX_LEAD_MS + HOUR_MS
    line.promote()
    clock.now_ms = NOW_MS + 1
    repository = timed if how == "in the process" else open_repository(migrated_url, clock_ms=clock)
    repository.ping()
    assert line.promote(repository) == NOW_MS + 1


def test_the_newest_promotion_counts_that_was_not_far_ahead(
    timed: SqlRepository, clock: Clock, migrated_url: str, open_repository: OpenRepository
) -> None:
    line = Line(timed)
    clock.now_ms = NOW_MS + MAX_LEAD_MS + HOUR_MS
    line.promote()
    clock.now_ms = NOW_MS
    line.promote()
    clock.now_ms = NOW_MS - HOUR_MS
    other = open_repository(migrated_url, clock_ms=clock)
    other.ping()
    assert line.promote(other) == NOW_MS
