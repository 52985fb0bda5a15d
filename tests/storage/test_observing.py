"""What a repository lets others see: statements, promotions, connections. Each test runs on every backend."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, PROMOTION_KIND_ROLLBACK
from modelregistry.v1.promotion_service_pb2 import RollbackBranchRequest
from server.core.errors import StorageUnavailable
from server.rules.promotion import promote_version, rollback_branch
from server.storage.contract import ConnectionUse, Transaction
from server.storage.sql.repository import SqlRepository
from tests import builders
from tests.builders import ADMIN, add_model, append
from tests.conftest import OpenRepository
from tests.storage.conftest import GivenUp


class Statements:
    """Sees statements, and takes down how each ended."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[tuple[str, BaseException | None]] = []

    def __call__(self, statement: str) -> Callable[[BaseException | None], None]:
        thread = threading.get_ident()
        self.begun.append(statement)

        def end(error: BaseException | None) -> None:
            assert threading.get_ident() == thread
            self.ended.append((statement, error))

        return end


@pytest.fixture
def statements() -> Statements:
    return Statements()


@pytest.fixture
def watched(migrated_url: str, open_repository: OpenRepository, statements: Statements) -> SqlRepository:
    return open_repository(migrated_url, observer=statements)


def test_each_statement_of_a_read_is_seen(watched: SqlRepository, statements: Statements) -> None:
    model = add_model(watched)
    version = append(watched, builders.version(model.rid))
    del statements.ended[:]

    found = watched.read(lambda reader: reader.find_version(version.rid, ADMIN))

    assert found is not None
    assert statements.ended
    assert all(text.startswith("SELECT") and error is None for text, error in statements.ended)


def test_a_transaction_is_seen_from_begin_to_commit(watched: SqlRepository, statements: Statements) -> None:
    add_model(watched)

    seen = [text.split()[0] for text, _ in statements.ended]
    # The model, and the event that tells of it. Before that, PostgreSQL marks the transaction.
    assert [word for word in seen if word != "SELECT"] == ["BEGIN", "INSERT", "INSERT", "COMMIT"]
    assert len(statements.begun) == len(seen)


def test_a_statement_that_fails_ends_with_its_error(watched: SqlRepository, statements: Statements) -> None:
    with pytest.raises((psycopg.Error, StorageUnavailable)):
        watched.read(lambda reader: reader.session.run("SELECT lost FROM nowhere"))

    [(statement, error)] = statements.ended
    assert statement == "SELECT lost FROM nowhere"
    assert "nowhere" in str(error)


def test_values_are_not_part_of_what_is_seen(watched: SqlRepository, statements: Statements) -> None:
    model = add_model(watched, "a-secret-name")
    version = append(watched, builders.version(model.rid, label="a-secret-column"))
    promote(watched, version.rid, model.rid)

    seen = " ".join(statements.begun)
    assert len(statements.begun) > 5
    assert not any(value in seen for value in (model.rid, version.rid, "a-secret-name", "a-secret-column", ADMIN.user))


def promote(repository: SqlRepository, source_rid: str, model_rid: str, request_id: str | None = None) -> None:
    request = PromoteVersionRequest(model_rid=model_rid, source_model_version_rid=source_rid, request_id=request_id)
    repository.write(lambda tx: promote_version(tx, ADMIN, request))


def test_promotions_are_told_by_kind_once_they_are_committed(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    told: list[int] = []
    repository = open_repository(migrated_url, promoted=told.append)
    model = add_model(repository)
    version = append(repository, builders.version(model.rid))

    def unseen(tx: Transaction) -> None:
        promote_version(tx, ADMIN, PromoteVersionRequest(model_rid=model.rid, source_model_version_rid=version.rid))
        assert told == []
        raise GivenUp

    with pytest.raises(GivenUp):
        repository.write(unseen)
    assert told == []

    promote(repository, version.rid, model.rid)
    rollback = RollbackBranchRequest(model_rid=model.rid, to_version_number=1)
    repository.write(lambda tx: rollback_branch(tx, ADMIN, rollback))
    assert told == [PROMOTION_KIND_PROMOTION, PROMOTION_KIND_ROLLBACK]


def test_a_promotion_that_is_repeated_is_told_once(migrated_url: str, open_repository: OpenRepository) -> None:
    told: list[int] = []
    repository = open_repository(migrated_url, promoted=told.append)
    model = add_model(repository)
    version = append(repository, builders.version(model.rid))

    for _ in range(3):
        promote(repository, version.rid, model.rid, "0b7f0ad0-0ae4-4c1a-9c0a-5a0d5c1e7f00")

    assert told == [PROMOTION_KIND_PROMOTION]


def test_no_standby_was_seen_where_there_is_none(repository: SqlRepository) -> None:
    assert repository.standby_seen_at() is None


def test_connections_are_in_use_while_they_are_lent_and_idle_afterwards(
    migrated_url: str, open_repository: OpenRepository
) -> None:
    repository = open_repository(migrated_url, pool_size=3)
    assert repository.connections() == ConnectionUse(in_use=0, idle=0, limit=3)

    seen = repository.read(lambda _: repository.read(lambda _: repository.connections()))
    assert seen == ConnectionUse(in_use=2, idle=0, limit=3)
    assert repository.connections() == ConnectionUse(in_use=0, idle=2, limit=3)


def test_a_connection_that_failed_is_not_in_use(migrated_url: str, open_repository: OpenRepository) -> None:
    repository = open_repository(migrated_url, pool_size=3)

    with pytest.raises((psycopg.Error, StorageUnavailable)):
        repository.read(lambda reader: reader.session.run("SELECT lost FROM nowhere"))

    assert repository.connections().in_use == 0
