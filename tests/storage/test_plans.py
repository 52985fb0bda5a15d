"""What the database does for a call: how many rows a page reads, how much a promotion sends."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import Engine, insert, update

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE_TRANSITIVE
from modelregistry.v1.promotion_pb2 import AllowedSource, AllowedSources, Promotion
from modelregistry.v1.promotion_service_pb2 import BatchPromoteVersionsRequest, BatchPromotion
from server.core.caller import Caller
from server.rules.promotion import batch_promote_versions
from server.storage.contract import PromotionFilter
from server.storage.paging import Page, PageRequest, Position
from server.storage.sql import tables
from server.storage.sql.database import database_of
from server.storage.sql.repository import SqlRepository
from server.storage.sql.rows import content_of
from tests import builders
from tests.builders import ADMIN, add_model, append, caller, promote
from tests.conftest import NewDatabase
from tests.storage.inspection import Executed, open_engine, opened, rows, statements
from tests.storage.plans import explained, nodes, plan_on_postgresql, rows_read

VERSIONS = 5000
# How many branches a model has, and how many others have one.
WIDE = 1000
PAGE_SIZE = 10
# How many promotions follow on those for which a session has made its plans, and how many rows each may read then.
PROMOTED_SINCE = 60
FEW_ROWS = 5
# An administrator who promotes once in a while.
RARELY = Caller(principals=("user:joe",), is_admin=True)

# Behind which version the page begins: the first page, one in the middle, the deepest.
POSITIONS = [None, VERSIONS // 2, PAGE_SIZE + 1]


class Filled:
    """A repository with two branches of many versions in one model, and its engine."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = open_engine(url)
        self.repository = SqlRepository(database_of(url))
        self.model_rid = add_model(self.repository).rid
        for branch in ("master", "staging"):
            append(self.repository, builders.version(self.model_rid, branch))
        made = [
            content_of(builders.version(self.model_rid, label=f"number {number}")) for number in range(VERSIONS // 2)
        ]
        contents = [{**content._asdict(), "size": len(content.payload)} for content in made]
        versions = [
            {
                **dict(first._mapping),
                "id": first.id + 2 * number,
                "version_number": first.version_number + number,
                "rid": f"ri.models.main.model-version.{uuid.uuid4()}",
                "content_digest": contents[number % len(contents)]["digest"],
            }
            for first in rows(url, tables.versions)
            for number in range(1, VERSIONS)
        ]
        with self.engine.begin() as connection:
            connection.execute(insert(tables.contents), contents)
            connection.execute(insert(tables.versions), versions)
            connection.execute(update(tables.branches).values(version_count=VERSIONS))
            connection.exec_driver_sql("ANALYZE")

    def listing(self, after: Position | None) -> Executed:
        """The statement with which a page of versions is read; the page is what it should be."""
        with statements() as executed:
            page = self.repository.read(
                lambda reader: reader.list_versions(self.model_rid, "master", ADMIN, PageRequest(PAGE_SIZE, after))
            )
        newest = VERSIONS if after is None else int(after) - 1
        expected = list(range(newest, newest - PAGE_SIZE, -1))
        assert [version.version_number for version in page.items] == expected
        assert page.next_position == (None if expected[-1] == 1 else expected[-1])
        [listing] = [each for each in executed if "versions" in each.statement]
        return listing


@pytest.fixture
def filled(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[Filled]:
    filled = Filled(new_database(request.param, migrated=True))
    yield filled
    filled.engine.dispose()


@pytest.mark.parametrize("filled", ["postgresql"], indirect=True)
def test_a_page_of_versions_reads_no_more_rows_than_it_holds_on_postgresql(filled: Filled) -> None:
    """However deep it is, and as a prepared statement too, for which PostgreSQL settles on a plan after five calls."""
    for after in POSITIONS:
        listing = filled.listing(after)
        for calls in (1, 10):
            for node in plan_on_postgresql(filled.engine, listing, calls):
                seen = f"call {calls}, behind {after}: {node}"
                assert node["Node Type"] != "Seq Scan" or node["Relation Name"] not in ("versions", "contents"), seen
                if node.get("Relation Name") in ("versions", "contents"):
                    assert rows_read(node) <= PAGE_SIZE + 1, seen


@pytest.mark.parametrize("filled", ["sqlite"], indirect=True)
def test_a_page_of_versions_is_found_by_the_index_on_sqlite(filled: Filled) -> None:
    for after in POSITIONS:
        listing = filled.listing(after)
        with filled.engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {listing.statement}", tuple(listing.parameters))
            details = [row.detail for row in plan]
        index = re.compile(r"SEARCH versions USING INDEX \S+ \(branch_id=\? AND version_number<\?\)")
        assert any(index.fullmatch(detail) for detail in details), details
        assert not [detail for detail in details if re.match(r"SCAN (versions|contents|branches|models)", detail)]


def test_a_page_of_branches_is_not_sorted_where_most_models_have_few(new_database: NewDatabase) -> None:
    """PostgreSQL then expects so few of any model that it would as soon read and sort them all."""
    url = new_database("postgresql", migrated=True)
    with opened(url) as (engine, repository):
        model = add_model(repository)
        append(repository, builders.version(model.rid))
        first = {
            table: dict(rows(url, table)[0]._mapping) for table in (tables.models, tables.branches, tables.versions)
        }
        numbers = range(2, WIDE + 2)
        few = [
            {**first[tables.models], "id": n, "rid": f"{model.rid}-{n}", "name_digest": uuid.uuid4().bytes}
            for n in numbers
        ]
        branches = [
            {**first[tables.branches], "id": 2 * n + part, "model_id": (1, n)[part], "name": f"branch-{n:05}"}
            for n in numbers
            for part in (0, 1)
        ]
        heads = [
            {**first[tables.versions], "id": each["id"], "rid": f"{model.rid}-{each['id']}", "branch_id": each["id"]}
            for each in branches
        ]
        with engine.begin() as connection:
            for table, filling in ((tables.models, few), (tables.branches, branches), (tables.versions, heads)):
                connection.execute(insert(table), filling)
            connection.exec_driver_sql("ANALYZE")
        with statements() as executed:
            page = repository.read(lambda reader: reader.list_branches(model.rid, ADMIN, PageRequest(PAGE_SIZE)))
        assert len(page.items) == PAGE_SIZE
        listing, _ = executed  # and then their contents
        for calls in (1, 10):
            for node in plan_on_postgresql(engine, listing, calls):
                if node.get("Relation Name") == "branches":
                    assert rows_read(node) <= PAGE_SIZE + 1, f"call {calls}: {node}"


def test_a_promotion_costs_the_same_whatever_the_size_of_the_content(backend: str, new_database: NewDatabase) -> None:
    url = new_database(backend, migrated=True)
    engine, repository = open_engine(url), SqlRepository(database_of(url))
    target = add_model(repository)
    sent = []

    for size in (10, 3_000_000):
        source = append(repository, builders.version(add_model(repository).rid, size=size))
        found = repository.read(lambda reader, source=source: reader.find_version(source.rid, ADMIN))
        assert found is not None
        assert found.version.ByteSize() > size
        found.version.rid = f"ri.models.main.model-version.{uuid.uuid4()}"
        found.version.model_rid = target.rid
        with statements() as executed:
            repository.write(lambda tx, found=found: tx.append_version(found.version, found.content_digest))
        sent.append(executed)
    engine.dispose()

    small, large = sent
    assert [each.statement for each in large if each.statement] == [each.statement for each in small]
    assert sum(len(repr(each.parameters)) for each in large) < 2_000


def test_a_promotion_over_another_content_compares_the_two_once(backend: str, new_database: NewDatabase) -> None:
    """And costs, from then on, the same whatever their size: the head's content is not read again."""
    url = new_database(backend, migrated=True)
    engine, repository = open_engine(url), SqlRepository(database_of(url))
    sent = []

    for size in (10, 3_000_000):
        model_rid, target_rid = (add_model(repository).rid for _ in range(2))
        one, other = (append(repository, builders.version(model_rid, label=label, size=size)) for label in ("a", "b"))
        for source in (one, other, one):
            promote(repository, source, target_rid)
        with statements() as executed:
            promote(repository, other, target_rid)
        sent.append(executed)
    engine.dispose()

    small, large = sent
    assert [each.statement for each in large] == [each.statement for each in small]
    assert sum(len(repr(each.parameters)) for each in large) < 4_000
    assert [each for each in large if "contents.payload" in each.statement] == []
    assert not [each for each in large if "INSERT INTO verdicts" in each.statement]


def test_a_page_of_promotions_reads_no_more_of_them_than_are_wanted_and_visible(new_database: NewDatabase) -> None:
    """Of thousands, the page; and for Jane, who may see only the three oldest, those.

    These are what PostgreSQL would look for among all, newest first, since it expects to meet some soon.
    """
    url = new_database("postgresql", migrated=True)
    engine, repository = open_engine(url), SqlRepository(database_of(url))
    source = append(repository, builders.version(add_model(repository).rid))
    visible, target = add_model(repository), add_model(repository)
    builders.grant(repository, visible.rid, "user:jane", ROLE_VIEWER)
    rare = append(repository, builders.version(source.model_rid))
    janes = [promote(repository, rare, visible.rid, by=RARELY).rid for _ in range(3)]
    entries = [BatchPromotion(model_rid=target.rid, source_model_version_rid=source.rid)] * 100
    for _ in range(20):
        repository.write(lambda tx: batch_promote_versions(tx, ADMIN, BatchPromoteVersionsRequest(promotions=entries)))
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")

    def page_of(by: Caller, wanted: PromotionFilter, page: PageRequest, most: int) -> Page[Promotion]:
        """A page, for which no statement reads more rows of a table than these."""
        with statements() as executed:
            found = repository.read(lambda reader: reader.list_promotions(by, wanted, page))
        listing = [each for each in executed if "promotions" in each.statement]
        assert listing
        for each in listing:
            for node in plan_on_postgresql(engine, each, calls=1):
                if node.get("Relation Name") in ("promotions", "versions"):
                    assert rows_read(node) <= most, (wanted, node)
        return found

    for wanted in (
        PromotionFilter(),
        PromotionFilter(model_rid=target.rid),
        PromotionFilter(source_rid=source.rid),
        PromotionFilter(created_by=ADMIN.user),
        PromotionFilter(since_ms=0),
    ):
        first = page_of(ADMIN, wanted, PageRequest(PAGE_SIZE), PAGE_SIZE + 1)
        second = page_of(ADMIN, wanted, PageRequest(PAGE_SIZE, first.next_position), PAGE_SIZE + 1)
        assert [promotion.version_number for promotion in second.items] == list(range(1990, 1980, -1))
    newest = page_of(ADMIN, PromotionFilter(), PageRequest(1), 2).items[0].created_time.ToMilliseconds()
    oldest = page_of(ADMIN, PromotionFilter(model_rid=visible.rid), PageRequest(1), 2).items[0].created_time
    rarely = [
        PromotionFilter(model_rid=visible.rid),
        PromotionFilter(source_rid=rare.rid),
        PromotionFilter(created_by=RARELY.user),
        PromotionFilter(until_ms=oldest.ToMilliseconds() + 1),
    ]
    for wanted in [*rarely, *(each._replace(since_ms=0, until_ms=newest + 1) for each in rarely[:3])]:
        seen = page_of(ADMIN, wanted, PageRequest(2), 3)
        assert [promotion.model_version_rid for promotion in seen.items] == janes[:0:-1]
        last = page_of(ADMIN, wanted, PageRequest(2, seen.next_position), 3)
        assert [promotion.model_version_rid for promotion in last.items] == janes[:1]
    [one] = page_of(ADMIN, PromotionFilter(version_rid=janes[0]), PageRequest(2), 2).items
    assert one.model_version_rid == janes[0]
    for wanted in (
        PromotionFilter(),
        PromotionFilter(created_by=RARELY.user),
        PromotionFilter(branch="master"),
        PromotionFilter(since_ms=0),
        PromotionFilter(until_ms=newest + 1),
    ):
        # Each of the three as often as the plan asks for it.
        seen = page_of(caller("user:jane"), wanted, PageRequest(2), 10 * len(janes))
        assert [promotion.model_version_rid for promotion in seen.items] == janes[:0:-1]
        assert seen.next_position
    engine.dispose()


@pytest.mark.parametrize("in_folder", [True, False], ids=["one folder", "all folders"])
def test_models_are_listed_without_walking_past_those_that_are_invisible(
    new_database: NewDatabase, in_folder: bool
) -> None:
    """Of thousands of models in a folder Jane may see three: the others cost her no row, and tell her nothing."""
    url = new_database("postgresql", migrated=True)
    engine, repository = open_engine(url), SqlRepository(database_of(url))
    folder = builders.new_folder_rid()
    models = repository.write(lambda tx: [tx.add_model(builders.model(folder=folder)) for _ in range(3000)])
    for model in models[::1000]:
        builders.grant(repository, model.rid, "user:jane", ROLE_VIEWER)
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")

    with statements() as executed:
        page = repository.read(
            lambda reader: reader.list_models(builders.caller(), folder if in_folder else None, PageRequest(2))
        )
    assert len(page.items) == 2
    [listing] = executed
    for node in plan_on_postgresql(engine, listing, calls=1):
        if node.get("Relation Name") == "models":
            assert rows_read(node) <= 3, node
    engine.dispose()


@pytest.mark.parametrize("is_protected", [False, True], ids=["without a policy", "with rules"])
def test_what_postgresql_plans_for_an_empty_registry_does_for_a_fuller_one(
    new_database: NewDatabase, is_protected: bool
) -> None:
    """Also inside of functions. A session keeps its plans until there are new statistics, a minute later or never."""
    with explained() as plans, opened(new_database("postgresql", migrated=True)) as (_, repository):
        source = append(repository, builders.version(add_model(repository).rid))
        target = add_model(repository, "target")
        if is_protected:
            policy = builders.policy(
                target.rid,
                COMPATIBILITY_MODE_ENFORCE_TRANSITIVE,
                1,
                compatibility_since_revision=1,
                allowed_sources=AllowedSources(sources=[AllowedSource(model_rid=source.model_rid)]),
                min_time_as_head=Duration(),
            )
            repository.write(lambda tx: tx.add_policy(policy, ADMIN.user))
        for _ in range(PROMOTED_SINCE):
            plans.clear()
            promote(repository, source, target.rid)

    found = [node for plan in plans for node in nodes(plan) if "Actual Rows" in node]
    assert {node.get("Relation Name") for node in found} >= {"branches", "versions", "promotions"}
    assert [node for node in found if rows_read(node) > FEW_ROWS] == []
