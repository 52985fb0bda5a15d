"""What the role of the servers on PostgreSQL cannot do with the rights that docs/operations.md gives it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import psycopg
import pytest
from sqlalchemy import Engine

from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_request_pb2 import PROMOTION_REQUEST_STATE_REJECTED
from server.core import rids
from server.core.errors import StorageUnavailable
from server.rules.fsck import Examination
from server.rules.importing import import_lines
from server.storage.contract import PromotionFilter
from server.storage.paging import PageRequest
from server.storage.sql.database import kept_database
from server.storage.sql.inventory import open_inventory
from server.storage.sql.repository import SqlRepository, now_ms
from server.storage.sql.tables import metadata
from tests import builders
from tests.builders import ADMIN, add_model, append, promote, timestamp
from tests.conftest import OpenRepository
from tests.processes import until
from tests.storage.inspection import Executed, open_engine, rows, statements
from tests.storage.plans import plan_on_postgresql

MONTH_MS = 30 * 24 * 3600 * 1000
GUARDED = ("branches", "versions", "promotions", "grants", "grant_changes")


class Registry(NamedTuple):
    """A registry, the URL by which its server gets at it, and what an attacker finds in it."""

    url: str
    owner_url: str
    repository: SqlRepository
    head: ModelVersion  # promoted, number 3 of its branch
    unpromoted: ModelVersion  # the only one of another branch
    resource: str  # owned by user:jane, and once by user:joe


@pytest.fixture
def registry(server_url: str, owner_url: str, open_repository: OpenRepository) -> Registry:
    repository = open_repository(server_url)
    model = add_model(repository)
    source = append(repository, builders.version(model.rid))
    promote(repository, source, model.rid)
    head = promote(repository, source, model.rid)
    unpromoted = append(repository, builders.version(model.rid, "other"))
    for name in ("user:jane", "user:joe"):
        builders.grant(repository, model.rid, name, ROLE_OWNER)
    builders.revoke(repository, model.rid, "user:joe")
    return Registry(server_url, owner_url, repository, head, unpromoted, model.rid)


NEW_VERSION = """
    INSERT INTO versions (rid, branch_id, version_number, content_digest, source, root_rid, created_time, created_by)
    SELECT 'ri.models.main.model-version.new', branch_id, version_number + {step}, content_digest, source, root_rid,
        {time}, created_by
    FROM versions WHERE rid = %(head)s;
"""
NEW_PROMOTION = """
    INSERT INTO promotions
        (rid, kind, version_id, model_id, source_model_rid, source_rid, created_time, created_by, hash, previous_hash)
    SELECT 'ri.models.main.promotion.new', 1, v.id, b.model_id, %(resource)s, %(head)s, {time}, v.created_by,
        {hash}, {previous}
    FROM versions v JOIN branches b ON b.id = v.branch_id WHERE v.rid = {version};
"""
COUNTED = "UPDATE branches SET version_count = version_count + 1 WHERE version_count = 3;"
CHANGE = """
    INSERT INTO grant_changes (resource_rid, principal, role, changed_by, changed_time)
    VALUES (%(resource)s, {who}, {role}, 'user:admin', {time});
"""
NOW = "floor(extract(epoch FROM clock_timestamp()) * 1000)"
LONG_AGO = f"{NOW} - {MONTH_MS}"
GIVEN = "INSERT INTO grants VALUES (%(resource)s, 'user:joe', 4);"


CHAIN = "(SELECT hash FROM promotions p JOIN versions v ON v.id = p.version_id WHERE v.rid = %(head)s)"


def version(step: int = 1, at: str = NOW) -> str:
    return NEW_VERSION.format(step=step, time=at)


def promotion(at: str = "v.created_time", of: str = "%(new)s", link: str = "NULL", previous: str = "NULL") -> str:
    return NEW_PROMOTION.format(time=at, version=of, hash=link, previous=previous)


def change(role: str, who: str = "'user:joe'", at: str = NOW) -> str:
    return CHANGE.format(who=who, role=role, time=at)


ATTACKS = {
    "a record of a principal is pinned as the newest": """
        INSERT INTO principal_changes (id, principal, changed_by, changed_time)
        VALUES (9223372036854775807, 'user:mallory', 'user:admin', 0)
    """,
    "a policy of a branch is pinned as the newest": """
        INSERT INTO branch_policies (id, model_id, branch, compatibility, changed_by, changed_time)
        SELECT 9223372036854775807, id, 'master', 1, 'user:admin', 0 FROM models
    """,
    "a policy of a folder is pinned as the newest": """
        INSERT INTO folder_policies (id, folder_rid, new_model_owner, changed_by, changed_time)
        VALUES (9223372036854775807, %(resource)s, 1, 'user:admin', 0)
    """,
    "a head moves back": "UPDATE branches SET version_count = version_count - 1 WHERE version_count = 3",
    "a head moves back to nothing": "UPDATE branches SET version_count = 0, chain = NULL",
    "a head leaps": "UPDATE branches SET version_count = 2147483646 WHERE version_count = 3",
    "a head moves on without a version": COUNTED,
    "a version is stored that nothing counts": version(),
    "a version is stored behind a gap": COUNTED + version(step=2),
    "a gap is counted": COUNTED + version() + COUNTED.replace("3", "4"),
    "a branch begins late": "INSERT INTO branches (model_id, name, version_count) SELECT id, 'new', 5 FROM models",
    "a branch begins with nothing but a count": """
        INSERT INTO branches (model_id, name, version_count) SELECT id, 'new', 1 FROM models
    """,
    "a version is backdated": COUNTED + version(at=LONG_AGO),
    "a version is of tomorrow": COUNTED + version(at=f"{NOW} + 86400000"),
    "a version says that it was imported long ago": COUNTED
    + version()
    .replace("created_by)", "created_by, imported_time)")
    .replace("created_by\n", f"created_by, {LONG_AGO}\n"),
    "a promotion is backdated": COUNTED + version() + promotion(at=LONG_AGO),
    "a promotion and its version are backdated": COUNTED + version(at=LONG_AGO) + promotion(),
    "a promotion of a version that is no head any more": promotion(of="%(source)s"),
    "a promotion of another time than its version": promotion(at="v.created_time + 1", of="%(unpromoted)s"),
    "a chained promotion is backdated": COUNTED
    + version()
    + promotion(at=LONG_AGO, link="'\\x01'", previous="'\\x02'"),
    "the chain goes on with another one's promotion": COUNTED
    + "UPDATE branches SET chain = '\\x01' WHERE version_count = 4;"
    + version()
    + promotion(at="v.created_time + 1", link="'\\x01'", previous=CHAIN),
    "the chain is cut off": "UPDATE branches SET chain = NULL WHERE version_count = 3",
    "the chain ends elsewhere": "UPDATE branches SET chain = '\\x0123' WHERE version_count = 3",
    "the chain begins again": COUNTED
    + "UPDATE branches SET chain = '\\x01' WHERE version_count = 4;"
    + version()
    + promotion(link="'\\x01'", previous="decode(repeat('00', 32), 'hex')"),
    "a grant without its change": GIVEN,
    "a grant is raised without its change": "UPDATE grants SET role = 1",
    "a grant is taken away without its change": "DELETE FROM grants",
    "a change without its grant": change("4"),
    "a revocation without its grant": change("NULL", who="'user:jane'"),
    "a change of another role": GIVEN + change("1"),
    "a change that is undone": GIVEN + change("4") + change("NULL"),
    "a change for another principal": GIVEN + change("4", who="'user:nemo'"),
    "a change is backdated": GIVEN + change("4", at=LONG_AGO),
    "a change before all others": """
        INSERT INTO grant_changes (id, resource_rid, principal, role, changed_by, changed_time)
        VALUES (-1, %(resource)s, 'user:jane', 4, 'user:admin', 1)
    """,
    "a promotion before all others": "INSERT INTO promotions (id) VALUES (-1)",
    "a version before all others": "INSERT INTO versions (id) VALUES (-1)",
    # Around the guards
    "replication, which fires no trigger": "SET session_replication_role = replica;" + GIVEN,
    "a trigger is disabled": "ALTER TABLE grants DISABLE TRIGGER guard_grants;" + GIVEN,
    "a policy is turned off": "SET row_security = off;" + version(),
    "a policy is dropped": "DROP POLICY counted ON versions;" + version(),
    "row security is disabled": "ALTER TABLE versions DISABLE ROW LEVEL SECURITY;" + version(),
    "a guard is replaced": """
        CREATE OR REPLACE FUNCTION guard_grants() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    """
    + GIVEN,
    "constraints are checked early": "SET CONSTRAINTS ALL IMMEDIATE;" + GIVEN + change("4"),
    "constraints are checked early and deferred again": GIVEN
    + change("4")
    + "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED; UPDATE grants SET role = 1;",
    "a savepoint": "SAVEPOINT s;" + GIVEN + "RELEASE s;",
    "a change that only the check has seen": GIVEN
    + "SAVEPOINT s;"
    + change("4")
    + "SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK TO s; RELEASE s;",
    "a transaction that lasts": GIVEN + "PREPARE TRANSACTION 'lasting'",
    "temporary tables in place of the real ones": """
        CREATE TEMP TABLE grants (resource_rid text, principal text, role smallint);
        CREATE TEMP TABLE grant_changes (id bigint, resource_rid text, principal text, role smallint);
        INSERT INTO pg_temp.grant_changes VALUES (1, %(resource)s, 'user:joe', 4);
        SET search_path = pg_temp, public;
        INSERT INTO public.grants VALUES (%(resource)s, 'user:joe', 4);
    """,
    "functions in place of the real ones": """
        CREATE FUNCTION pg_temp.pg_has_role(oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT to_timestamp(0)';
        SET search_path = pg_temp, pg_catalog, public;
    """
    + GIVEN,
    "settings of the language": "SET plpgsql.check_asserts = off; SET row_security = off;" + GIVEN,
}


def everything(url: str) -> dict[str, list[Any]]:
    return {name: rows(url, metadata.tables[name]) for name in GUARDED}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_role_of_the_servers_cannot_rewrite_what_happened(registry: Registry, attack: str) -> None:
    before = everything(registry.url)
    values = {
        "resource": registry.resource,
        "head": registry.head.rid,
        "source": registry.head.source.promoted.previous_model_version_rid,
        "unpromoted": registry.unpromoted.rid,
        "new": "ri.models.main.model-version.new",
    }

    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        psycopg.connect(registry.url, cursor_factory=psycopg.ClientCursor) as attacker,
    ):
        attacker.execute(attack, values)  # and committed at the end of the block

    assert everything(registry.url) == before
    # And the server goes on.
    assert promote(registry.repository, registry.head, registry.resource).version_number == 4


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_sees_the_past_cannot_give_again_what_was_taken_away(
    registry: Registry, isolation: str
) -> None:
    with psycopg.connect(registry.url) as attacker:
        attacker.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}".encode())
        assert attacker.execute("SELECT FROM grants WHERE principal = 'user:jane'").rowcount == 1
        builders.revoke(registry.repository, registry.resource, "user:jane")
        attacker.execute("INSERT INTO grants VALUES (%s, 'user:jane', 4)", [registry.resource])
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.SerializationFailure)):
            attacker.commit()

    assert not registry.repository.read(lambda reader: reader.list_grants(registry.resource, PageRequest(10))).items


def test_two_who_change_one_grant_wait_for_each_other(registry: Registry) -> None:
    """Else each would compare it with a past in which the other's record is missing."""
    values = {"resource": registry.resource}
    with (
        psycopg.connect(registry.url, cursor_factory=psycopg.ClientCursor) as attacker,
        ThreadPoolExecutor(1) as thread,
    ):
        # It says what holds, and is checked, but is not committed yet.
        attacker.execute(change("4", who="'user:jane'"), values)
        attacker.execute("SET CONSTRAINTS ALL IMMEDIATE")
        revoking = thread.submit(builders.revoke, registry.repository, registry.resource, "user:jane")
        with psycopg.connect(registry.url, autocommit=True) as looking:
            until(lambda: looking.execute(WAITING).rowcount == 1)
        attacker.commit()
        revoking.result(60)

    assert not registry.repository.read(lambda reader: reader.list_grants(registry.resource, PageRequest(10))).items


WAITING = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.mark.parametrize("off_ms", [-11 * 60_000, 11 * 60_000])
def test_a_server_whose_clock_is_wrong_stores_nothing_and_says_why(
    registry: Registry, open_repository: OpenRepository, off_ms: int
) -> None:
    """A clock that is behind does not show where the branch goes on, whose versions have the time of the head then."""
    wrong = open_repository(registry.url, clock_ms=lambda: now_ms() + off_ms)
    before = everything(registry.url)

    with pytest.raises(StorageUnavailable) as raised:
        append(wrong, builders.version(registry.resource, "new"))
    with pytest.raises(StorageUnavailable) as raised_for_grant:
        builders.grant(wrong, registry.resource, "user:new", ROLE_VIEWER)

    for error in (raised.value, raised_for_grant.value):
        assert error.retry_after is None
        assert "set the clock of the server" in str(error.__cause__)
    assert everything(registry.url) == before


def test_a_clock_that_is_a_little_off_is_none_the_worse_for_it(
    registry: Registry, open_repository: OpenRepository
) -> None:
    for off_ms in (-5 * 60_000, 5 * 60_000, 0):
        off = open_repository(registry.url, clock_ms=lambda off_ms=off_ms: now_ms() + off_ms)
        assert append(off, builders.version(registry.resource, f"new {off_ms}")).version_number == 1
        promote(off, registry.head, registry.resource)
    # And where one was far ahead, the branch goes on with its time.
    [tomorrow] = [now_ms() + 86_400_000]
    append(open_repository(registry.owner_url, clock_ms=lambda: tomorrow), builders.version(registry.resource, "ahead"))
    assert append(registry.repository, builders.version(registry.resource, "ahead")).created_time == timestamp(tomorrow)


def test_an_import_of_what_happened_long_ago_is_for_the_owner(
    registry: Registry, open_repository: OpenRepository
) -> None:
    line = json.dumps(
        {
            "rid": rids.new_model_version_rid(),
            "modelRid": registry.resource,
            "branch": "imported",
            "modelApi": {"inputs": [], "outputs": []},
            "createdTime": "2020-01-01T00:00:00Z",
            "createdBy": "user:jane",
        }
    ).encode()

    with pytest.raises(StorageUnavailable):
        import_lines(registry.repository, [line])
    assert import_lines(open_repository(registry.owner_url), [line]).versions == 1


def test_a_promotion_outside_of_the_chain_is_found(registry: Registry) -> None:
    """Nothing refuses it, since it says that it happened now; and nothing can make it look like one of a server."""
    values = {"resource": registry.resource, "head": registry.head.rid, "new": "ri.models.main.model-version.new"}
    attack = COUNTED + version() + promotion(link="'\\x01'", previous="'\\x02'")
    with psycopg.connect(registry.url, cursor_factory=psycopg.ClientCursor) as attacker:
        attacker.execute(attack, values)

    with open_inventory(kept_database(registry.url)) as inventory:
        found = {(fault.check, fault.subject) for fault in Examination(inventory, None).faults()}

    assert ("chain", "ri.models.main.promotion.new") in found


def test_a_request_for_promotion_is_made_open_and_closed_once(registry: Registry) -> None:
    source, asked = registry.unpromoted, builders.promotion_request(registry.unpromoted, registry.resource)
    registry.repository.write(lambda tx: tx.add_promotion_request(asked))
    made_closed = """
        INSERT INTO promotion_requests (rid, kind, model_id, branch, source_rid, error_count, warning_count,
            requested_by, created_time, expire_time, closed_as)
        SELECT 'ri.models.main.promotion-request.new', 1, id, 'master', '', 0, 0, 'user:joe', 0, 0, 3 FROM models
    """
    attacks = {
        "one is made closed": made_closed,
        "one is changed and stays open": "UPDATE promotion_requests SET closed_by = 'user:joe'",
        "what was asked is changed": "UPDATE promotion_requests SET source_rid = 'other', closed_as = 3",
        "one is removed": "DELETE FROM promotion_requests",
        "a review is changed": "UPDATE promotion_reviews SET verdict = 1",
    }
    table = metadata.tables["promotion_requests"]
    before = rows(registry.url, table)
    for name, attack in attacks.items():
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            psycopg.connect(registry.url, cursor_factory=psycopg.ClientCursor) as attacker,
        ):
            attacker.execute(attack.encode())
        assert rows(registry.url, table) == before, name
    registry.repository.write(
        lambda tx: tx.close_promotion_request(asked, PROMOTION_REQUEST_STATE_REJECTED, "user:jane")
    )
    closed = rows(registry.url, table)
    for reopening in ("closed_as = NULL", "closed_as = 3, promotion_rid = 'mine'"):
        with psycopg.connect(registry.url) as attacker:
            assert attacker.execute(f"UPDATE promotion_requests SET {reopening}".encode()).rowcount == 0
    assert rows(registry.url, table) == closed
    assert source.rid == closed[0].source_rid


def test_reads_are_planned_as_if_there_were_no_row_security(registry: Registry) -> None:
    """The owner, whom it does not bind, gets the same plans."""
    wanted, page = PromotionFilter(model_rid=registry.resource), PageRequest(2)
    with statements() as executed:
        for ask in (
            lambda reader: reader.list_versions(registry.resource, "master", ADMIN, page),
            lambda reader: reader.list_branches(registry.resource, ADMIN, page),
            lambda reader: reader.list_promotions(ADMIN, wanted, page),
            lambda reader: reader.find_numbered_version(registry.resource, "master", 1, ADMIN),
            lambda reader: builders.branch_end(reader, registry.resource),
        ):
            registry.repository.read(ask)
    assert len(executed) >= 5
    server, owner = (open_engine(url) for url in (registry.url, registry.owner_url))
    for each in executed:
        assert shape(server, each) == shape(owner, each), each.statement
    server.dispose()
    owner.dispose()


def shape(engine: Engine, executed: Executed) -> list[tuple[Any, ...]]:
    """What a plan does, whatever it cost."""
    told = ("Node Type", "Relation Name", "Index Name", "Index Cond", "Filter", "Hash Cond", "Plan Rows")
    return [tuple(node.get(name) for name in told) for node in plan_on_postgresql(engine, executed, 1)]
