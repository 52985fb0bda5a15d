"""What is settled is settled in the log that is read: one that has lost its end begins anew, with the same keys."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF
from modelregistry.v1.model_pb2 import Model
from server.core.errors import StorageUnavailable
from server.storage.contract import PromotionFilter, Transaction
from server.storage.paging import PageRequest
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append, promote, version
from tests.conftest import NewDatabase, OpenRepository
from tests.lost_future import LostFuture
from tests.processes import until
from tests.storage.conftest import Held
from tests.storage.inspection import statements


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    return new_database("postgresql", migrated=True)


def hold(repository: SqlRepository, model: Model, held: Held) -> None:
    """Write an event whose key is drawn, and that is not committed before it may go on."""

    def change(tx: Transaction) -> None:
        tx.add_policy(builders.policy(model.rid, COMPATIBILITY_MODE_OFF), "user:jane")
        # What is sent goes to the database with the next question.
        tx.get_policy(model.rid, "master")
        held(tx)

    repository.write(change)


def settle_by_now(repository: SqlRepository) -> None:
    newest = repository.settled_event()
    until(lambda: repository.settled_event_by_now() == newest)


@pytest.mark.parametrize("by_now", [False, True])
def test_another_event_with_the_key_of_the_settled_one_is_not_settled_with_it(
    url: str, postgres_url: str, open_repository: OpenRepository, threads: ThreadPoolExecutor, by_now: bool
) -> None:
    repository, other, held = open_repository(url), open_repository(url), Held()
    model = add_model(repository)
    copy = LostFuture(postgres_url, url)
    add_model(repository)
    add_model(repository)
    settle_by_now(repository)
    lost = repository.settled_event()

    copy.take_place()
    holding = threads.submit(hold, other, model, held)
    held.wait_until_begun()
    add_model(other)

    if by_now:
        # What it knew of the other log is not there, and nobody reads up to it.
        assert {repository.settled_event_by_now() for _ in range(20)} == {lost}
        held.go_on()
        until(lambda: repository.settled_event_by_now() != lost)
        settled = repository.settled_event_by_now()
    else:
        with statements() as sent:
            settling = threads.submit(repository.settled_event)
            until(lambda: sum("virtualtransaction" in each.statement for each in sent) >= 2)
            assert not settling.done()
            held.go_on()
            settled = settling.result(60)
    holding.result(60)
    assert settled.key == lost.key
    assert settled.name != lost.name


def test_who_was_deciding_on_the_lost_log_does_not_settle_the_other_one(
    url: str, postgres_url: str, open_repository: OpenRepository, threads: ThreadPoolExecutor
) -> None:
    repository, other, here, there = open_repository(url), open_repository(url), Held(), Held()
    model = add_model(repository)
    copy = LostFuture(postgres_url, url)
    settle_by_now(repository)
    before = repository.settled_event()
    broken = threads.submit(hold, other, model, here)
    here.wait_until_begun()
    for _ in range(3):
        add_model(other)
    assert repository.settled_event_by_now() == before

    copy.take_place()
    here.go_on()
    assert isinstance(broken.exception(60), StorageUnavailable)
    holding = threads.submit(hold, other, model, there)
    there.wait_until_begun()
    # It has a smaller key than those that were lost, and a greater one than what is held.
    add_model(other)
    assert {repository.settled_event_by_now() for _ in range(20)} == {before}
    there.go_on()
    holding.result(60)
    settle_by_now(repository)


def test_nothing_is_read_up_to_what_the_log_has_lost(
    url: str, postgres_url: str, open_repository: OpenRepository
) -> None:
    repository = open_repository(url)
    source, target = append(repository, version(add_model(repository).rid)), add_model(repository)
    copy = LostFuture(postgres_url, url)
    promote(repository, source, target.rid)
    event, promotion = repository.settled_event(), repository.settled_promotion()

    def require_unreadable() -> None:
        with pytest.raises(StorageUnavailable):
            repository.read(lambda reader: reader.require_event(event))
        with pytest.raises(StorageUnavailable):
            repository.read(
                lambda reader: reader.list_promotions_in_order(ADMIN, PromotionFilter(), promotion, PageRequest(10))
            )

    copy.take_place()
    require_unreadable()
    # Not even when others have got the same keys.
    promote(repository, source, target.rid)
    assert (repository.settled_event().key, repository.settled_promotion().key) == (event.key, promotion.key)
    require_unreadable()
