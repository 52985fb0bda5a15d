"""Changes of what others decide on return when nothing is committed any more that was decided without them."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import make_url

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, Grant
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_OFF
from server.core import cancellation
from server.core.cancellation import Call, CallOver
from server.core.errors import StorageUnavailable
from server.storage.contract import Transaction
from server.storage.sql.repository import SqlRepository
from server.storage.sql.session import Session
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.conftest import NewDatabase, OpenRepository
from tests.processes import until
from tests.storage.conftest import GivenUp, Held
from tests.storage.inspection import break_connection, statements, waiting_for_locks

Branches = list[tuple[str, str]]


@pytest.fixture
def postgres(new_database: NewDatabase) -> str:
    return new_database("postgresql", migrated=True)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


class Deciding:
    """A transaction that locks branches, reads what it decides on, and is then held until the block ends."""

    def __init__(self, repository: SqlRepository, branches: Branches, threads: ThreadPoolExecutor):
        self._held = Held()
        self.session: Session

        def decide(tx: Transaction) -> None:
            tx.lock_branches(branches, ADMIN, ROLE_OWNER)
            builders.branch_end(tx, *branches[0])
            self.session = tx.session  # type: ignore[attr-defined]
            self._held(tx)

        self.transaction = threads.submit(repository.write, decide)

    def __enter__(self) -> Deciding:
        self._held.wait_until_begun()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.go_on()


def is_waiting(settling: Future[None]) -> bool:
    """Whether it looks again and again, and does not return."""
    with statements() as sent:
        until(lambda: settling.done() or sum("virtualtransaction" in each.statement for each in sent) >= 2)
    return not settling.done()


PLACES: dict[str, Callable[[str], Branches]] = {
    "one": lambda model_rid: [(model_rid, "master")],
    "new": lambda model_rid: [(model_rid, "new")],
    "several": lambda model_rid: [(model_rid, "master"), (model_rid, "new")],
    "of no model": lambda _: [("ri.models.main.model.none", "master")],
}


@pytest.mark.parametrize("place", PLACES)
def test_it_waits_for_each_transaction_that_decides_whether_it_has_locked_a_branch_or_not(
    postgres: str, open_repository: OpenRepository, threads: ThreadPoolExecutor, place: str
) -> None:
    repository, replica = open_repository(postgres), open_repository(postgres)
    model = add_model(repository)
    append(repository, builders.version(model.rid))
    with Deciding(repository, PLACES[place](model.rid), threads) as deciding:
        settling = threads.submit(replica.settle)
        assert is_waiting(settling)
    settling.result(60)
    deciding.transaction.result(60)


def test_what_was_being_decided_is_there_or_will_never_be_when_it_returns(
    repository: SqlRepository, migrated_url: str, open_repository: OpenRepository, threads: ThreadPoolExecutor
) -> None:
    replica, model = open_repository(migrated_url), add_model(repository)
    policy = builders.policy(model.rid, COMPATIBILITY_MODE_OFF)
    for held in (Held(), Held()):

        def decide(tx: Transaction) -> None:
            builders.lock(tx, model.rid)
            policy.revision = tx.get_policy(model.rid, "master").revision + 1
            tx.add_policy(policy, "user:jane")
            held(tx)  # noqa: B023 - it is waited for below

        def settle_and_look() -> int:
            replica.settle()
            return replica.read(lambda reader: reader.get_policy(model.rid, "master")).revision

        deciding = threads.submit(repository.write, decide)
        held.wait_until_begun()
        settling = threads.submit(settle_and_look)
        until(settling.running)
        held.go_on()
        assert settling.result(60) == policy.revision
        deciding.result(60)


def test_a_change_that_settles_waits_once_it_is_committed_and_stays_whatever_becomes_of_that(
    postgres: str, open_repository: OpenRepository, threads: ThreadPoolExecutor
) -> None:
    repository = open_repository(postgres)
    model = add_model(repository)
    policy = builders.policy(model.rid, COMPATIBILITY_MODE_OFF)
    call = Call()

    def change() -> None:
        cancellation.begin(call)
        repository.write(lambda tx: tx.add_policy(policy, "user:jane"), settles=True)

    with Deciding(repository, [(model.rid, "new")], threads):
        changing = threads.submit(contextvars.Context().run, change)
        assert is_waiting(changing)
        assert repository.read(lambda reader: reader.get_policy(model.rid, "master")).revision == 1
        call.end()
        assert isinstance(changing.exception(60), CallOver)
    assert repository.read(lambda reader: reader.get_policy(model.rid, "master")).revision == 1


def test_a_change_that_settles_decides_itself(
    postgres: str, open_repository: OpenRepository, threads: ThreadPoolExecutor
) -> None:
    repository, held = open_repository(postgres), Held()
    model = add_model(repository)

    def change(tx: Transaction) -> None:
        tx.get_policy(model.rid, "master")
        held(tx)

    changing = threads.submit(repository.write, change, settles=True)
    held.wait_until_begun()
    settling = threads.submit(repository.settle)
    assert is_waiting(settling)
    held.go_on()
    settling.result(60)
    changing.result(60)


def test_changes_that_wait_do_not_wait_for_each_other(
    postgres: str, open_repository: OpenRepository, threads: ThreadPoolExecutor
) -> None:
    repository = open_repository(postgres)
    model = add_model(repository)
    with Deciding(repository, [(model.rid, "new")], threads):
        given = [Grant(resource_rid=model.rid, principal=f"user:{n}", role=ROLE_OWNER) for n in range(4)]
        changing = [
            threads.submit(repository.write, lambda tx, grant=grant: tx.set_grant(grant, "user:jane"), settles=True)
            for grant in given
        ]
        until(lambda: len(repository.read(lambda reader: reader.owners(model.rid))) == 4)
        assert all(map(is_waiting, changing))
    for each in changing:
        each.result(60)


def test_it_is_held_up_neither_by_what_waits_for_a_branch_nor_by_what_begins_to_decide_later(
    postgres: str, open_repository: OpenRepository, threads: ThreadPoolExecutor
) -> None:
    repository = open_repository(postgres)
    model = add_model(repository)
    branch = append(repository, builders.version(model.rid))
    with builders.held(repository, branch):
        waiting = [Deciding(repository, PLACES[place](model.rid), threads) for place in ("one", "several")]
        until(lambda: waiting_for_locks(repository) == 2)
        repository.settle()
        with Deciding(repository, PLACES["new"](model.rid), threads) as earlier:
            settling = threads.submit(repository.settle)
            assert is_waiting(settling)
            later = Deciding(repository, PLACES["of no model"](model.rid), threads).__enter__()
        settling.result(60)
        assert not later.transaction.done()
        later.__exit__()
        earlier.transaction.result(60)
    for each in waiting:
        each.__exit__()
    for each in waiting:
        each.transaction.result(60)


def test_it_returns_when_what_decides_has_lost_its_connection(
    postgres: str, open_repository: OpenRepository, threads: ThreadPoolExecutor
) -> None:
    repository = open_repository(postgres)
    deciding = Deciding(repository, PLACES["of no model"](""), threads)
    with deciding:
        settling = threads.submit(repository.settle)
        assert is_waiting(settling)
        break_connection(postgres, deciding.session)
        settling.result(60)


def test_a_change_of_a_group_that_decides_is_waited_for_behind_one_that_has_only_extended_the_branch(
    postgres: str, open_repository: OpenRepository, threads: ThreadPoolExecutor
) -> None:
    """What the one before has locked is not locked again, and yet what decides is marked."""
    repository = open_repository(postgres)
    model = add_model(repository)
    place = (model.rid, "master")
    first, second = Held(), Held()

    def extend(tx: Transaction) -> None:
        new = builders.version(model.rid)
        tx.append_version(new, tx.put_content(new))
        first(tx)

    def decide(tx: Transaction) -> None:
        builders.lock(tx, model.rid)
        builders.branch_end(tx, model.rid)
        second(tx)

    leading = threads.submit(repository.write, extend, branch=place)
    first.wait_until_begun()
    following = threads.submit(repository.write, decide, branch=place)
    until(lambda: sum(map(len, repository._group_commit._lines.values())) == 1)
    first.go_on()
    second.wait_until_begun()
    settling = threads.submit(repository.settle)
    assert is_waiting(settling)
    second.go_on()
    for each in (leading, following, settling):
        each.result(60)


def test_a_change_that_fails_does_not_wait(
    postgres: str, open_repository: OpenRepository, threads: ThreadPoolExecutor
) -> None:
    repository = open_repository(postgres)

    def fail(tx: Transaction) -> None:
        raise GivenUp

    with Deciding(repository, PLACES["of no model"](""), threads), statements() as sent:
        with pytest.raises(GivenUp):
            repository.write(fail, settles=True)
        assert not any("virtualtransaction" in each.statement for each in sent)


def test_where_it_cannot_be_asked_the_caller_is_told_so_without_a_hint_to_try_again(
    postgres: str, open_repository: OpenRepository
) -> None:
    """What it has changed is changed already."""
    gone = open_repository(make_url(postgres).set(database="gone").render_as_string(hide_password=False))
    with pytest.raises(StorageUnavailable) as caught:
        gone.settle()
    assert caught.value.retry_after is None
