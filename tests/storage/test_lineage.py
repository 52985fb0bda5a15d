"""Where a version came from and where it went. Each test runs on every backend."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, insert, update

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, LineageNode, Promotion
from modelregistry.v1.promotion_service_pb2 import GetLineageResponse
from server.core import rids
from server.core.caller import Caller
from server.core.errors import InvalidPageToken, ModelVersionNotFound
from server.rules.promotion import promote_version
from server.storage.contract import Lineage, Transaction
from server.storage.paging import PageRequest
from server.storage.sql.repository import SqlRepository
from server.storage.sql.tables import branches, promotions, versions
from tests import builders
from tests.builders import ADMIN, ALL, add_model, append, caller, promote
from tests.conftest import OpenRepository
from tests.storage.conftest import NOW_MS
from tests.storage.inspection import alter, opened, rows, statements

JANE = caller("user:jane")
LENGTH = 10_000
WHOLE = PageRequest(ALL)


def page_of(
    repository: SqlRepository, version: ModelVersion | str, by: Caller = ADMIN, page: PageRequest = WHOLE
) -> Lineage:
    rid = version if isinstance(version, str) else version.rid
    return repository.read(lambda reader: reader.get_lineage(rid, by, page))


def lineage(repository: SqlRepository, version: ModelVersion, by: Caller = ADMIN) -> list[LineageNode]:
    return page_of(repository, version, by).page.items


def links(nodes: list[LineageNode]) -> list[tuple[str, int | None]]:
    """Each version's RID, and the place in the list of the one that it was promoted from."""
    places = {node.node_id: place for place, node in enumerate(nodes)}
    assert len(places) == len(nodes)
    return [
        (node.model_version_rid, places[node.previous_node_id] if node.HasField("previous_node_id") else None)
        for node in nodes
    ]


def traced_rid(lineage: Lineage) -> str:
    (traced,) = (node for node in lineage.page.items if node.node_id == lineage.traced_node_id)
    return traced.model_version_rid


class Tree:
    """dev → stage → live and canary; and beside it, dev → other."""

    def __init__(self, repository: SqlRepository):
        self.models = {name: add_model(repository, name) for name in ("dev", "stage", "live", "canary", "other")}
        self.dev = append(repository, builders.version(self.models["dev"].rid))
        self.stage = promote(repository, self.dev, self.models["stage"].rid)
        self.other = promote(repository, self.dev, self.models["other"].rid)
        self.live = promote(repository, self.stage, self.models["live"].rid, branch="eu")
        self.canary = promote(repository, self.stage, self.models["canary"].rid)
        self.unrelated = append(repository, builders.version(self.models["dev"].rid))


def test_a_lineage_is_the_way_to_the_root_and_all_descendants(repository: SqlRepository) -> None:
    tree = Tree(repository)

    assert links(lineage(repository, tree.dev)) == [
        (tree.dev.rid, None),
        (tree.stage.rid, 0),
        (tree.live.rid, 1),
        (tree.canary.rid, 1),
        (tree.other.rid, 0),
    ]
    # Not what else was made of its predecessors.
    assert links(lineage(repository, tree.stage)) == [
        (tree.stage.rid, 1),
        (tree.dev.rid, None),
        (tree.live.rid, 0),
        (tree.canary.rid, 0),
    ]
    assert links(lineage(repository, tree.canary)) == [(tree.canary.rid, 1), (tree.stage.rid, 2), (tree.dev.rid, None)]
    assert links(lineage(repository, tree.unrelated)) == [(tree.unrelated.rid, None)]
    for version in (tree.dev, tree.stage, tree.canary):
        assert traced_rid(page_of(repository, version)) == version.rid


def test_a_node_says_where_the_version_is_and_whether_it_is_live(timed: SqlRepository) -> None:
    tree = Tree(timed)
    append(timed, builders.version(tree.models["stage"].rid))

    stage, root, live, _ = lineage(timed, tree.stage)

    assert live == LineageNode(
        node_id=live.node_id,
        previous_node_id=stage.node_id,
        model_version_rid=tree.live.rid,
        model_rid=tree.models["live"].rid,
        model_name="live",
        branch="eu",
        version_number=1,
        is_head=True,
        promotion_rid=timed.read(lambda reader: reader.get_promotion_rid(tree.live.rid)),
        created_by=ADMIN.user,
        created_time=builders.timestamp(NOW_MS),
        depth=1,
    )
    assert (stage.depth, root.depth) == (0, -1)
    assert not stage.is_head
    assert stage.HasField("is_head")
    assert not root.HasField("promotion_rid")
    assert not root.HasField("previous_node_id")


def test_what_the_caller_may_not_see_is_a_blank_in_its_place(repository: SqlRepository) -> None:
    tree = Tree(repository)
    for name in ("stage", "canary"):
        builders.grant(repository, tree.models[name].rid, "user:jane", ROLE_VIEWER)

    seen = lineage(repository, tree.stage, JANE)

    whole = lineage(repository, tree.stage)
    stage, root, live, canary = whole
    assert seen == [
        stage,
        LineageNode(node_id=root.node_id, depth=-1),
        LineageNode(node_id=live.node_id, previous_node_id=stage.node_id, depth=1),
        canary,
    ]


def test_a_name_in_a_lineage_tells_nothing_and_means_nothing_elsewhere(repository: SqlRepository) -> None:
    tree = Tree(repository)
    names = [[node.node_id for node in lineage(repository, version)] for version in (tree.dev, tree.stage)]

    assert names == [[node.node_id for node in lineage(repository, version)] for version in (tree.dev, tree.stage)]
    assert not set(names[0]) & set(names[1])
    positions = [page_of(repository, tree.dev, page=PageRequest(size)).page.next_position for size in range(1, 5)]
    opaque = [*names[0], *names[1], *positions]
    assert len({name[:8] for name in opaque}) == len(opaque)
    # Nothing of them, such as their length, tells how many versions there are.
    assert [{len(name) for name in kind} for kind in (*names, positions)] == [{22}, {22}, {84}]


@pytest.mark.parametrize("position", ["", "1", "A" * 21, "A" * 84, "?" * 22, "ä"])
def test_a_position_at_which_no_page_ended_is_refused(repository: SqlRepository, position: str) -> None:
    with pytest.raises(InvalidPageToken):
        page_of(repository, Tree(repository).dev, page=PageRequest(2, position))


def test_a_position_in_a_copy_where_another_version_has_got_the_key_is_refused(
    repository: SqlRepository, migrated_url: str
) -> None:
    tree = Tree(repository)
    page = page_of(repository, tree.dev, page=PageRequest(2)).page
    last = page.items[-1].model_version_rid
    alter(migrated_url, update(versions).where(versions.c.rid == last).values(rid=rids.new_model_version_rid()))
    with pytest.raises(InvalidPageToken):
        page_of(repository, tree.dev, page=PageRequest(2, page.next_position))


def test_the_position_of_another_lineage_and_the_name_of_a_version_are_refused(repository: SqlRepository) -> None:
    tree = Tree(repository)
    dev = page_of(repository, tree.dev, page=PageRequest(2)).page
    for position in (dev.next_position, *(node.node_id for node in dev.items)):
        with pytest.raises(InvalidPageToken):
            page_of(repository, tree.stage, page=PageRequest(2, position))


@pytest.mark.parametrize("absent", [True, False])
def test_an_invisible_or_absent_version_has_no_lineage(repository: SqlRepository, absent: bool) -> None:
    rid = rids.new_model_version_rid() if absent else Tree(repository).dev.rid

    with pytest.raises(ModelVersionNotFound) as failure:
        page_of(repository, rid, JANE)

    assert failure.value.parameters == {"modelRid": "", "modelVersionRid": rid}


def test_several_branches_and_rollbacks_within_a_model_are_links_like_others(repository: SqlRepository) -> None:
    model = add_model(repository)
    first = append(repository, builders.version(model.rid))
    append(repository, builders.version(model.rid))
    again = promote(repository, first, model.rid)
    branched = promote(repository, again, model.rid, branch="hotfix")

    assert links(lineage(repository, again)) == [(again.rid, 1), (first.rid, None), (branched.rid, 0)]


def imported(repository: SqlRepository, model_rid: str, rid: str, previous_rid: str) -> ModelVersion:
    """A version that says it was promoted from another, stored or not."""
    version = builders.version(model_rid)
    version.rid = rid
    promoted = PromotedSource(previous_model_rid=model_rid, previous_model_version_rid=previous_rid)
    version.source.CopyFrom(ModelVersionSource(promoted=promoted))
    promotion = Promotion(
        rid=rids.new_promotion_rid(),
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=model_rid,
        source_model_version_rid=previous_rid,
    )
    return builders.append_imported(repository, version, promotion)


def test_the_lineage_of_an_imported_version_begins_where_the_registry_knows_nothing(
    repository: SqlRepository,
) -> None:
    model = add_model(repository)
    version = imported(repository, model.rid, rids.new_model_version_rid(), rids.new_model_version_rid())
    promoted = promote(repository, version, model.rid)

    assert links(lineage(repository, promoted)) == [(promoted.rid, 1), (version.rid, None)]


@pytest.mark.parametrize("page_size", [1, 2, 3, ALL])
def test_versions_that_claim_to_be_made_of_each_other_do_not_go_round_for_ever(
    repository: SqlRepository, page_size: int
) -> None:
    """One is made of itself, and three of each other; of one of these two more are made, one after the other."""
    model = add_model(repository)
    rid = {name: rids.new_model_version_rid() for name in ("self", "a", "b", "c", "d", "e")}
    made = [("self", "self"), ("a", "c"), ("b", "a"), ("c", "b"), ("d", "a"), ("e", "d")]
    stored = {name: imported(repository, model.rid, rid[name], rid[previous]) for name, previous in made}
    for name, version in stored.items():
        nodes = all_pages(repository, version, page_size, lambda: None)
        told = [node.model_version_rid for node in nodes]
        assert set(told) == {each for of, each in rid.items() if (of == "self") == (name == "self")}
        assert told[0] == rid[name]
        # A circle that is longer than a page can be told again.
        assert len(told) <= (len(set(told)) if page_size > 3 else 3 * len(set(told)))


def all_pages(
    repository: SqlRepository, version: ModelVersion, page_size: int, meanwhile: Callable[[], object]
) -> list[LineageNode]:
    """The nodes of all pages; behind the first one, something happens."""
    nodes: list[LineageNode] = []
    after: int | str | None = None
    while True:
        page = page_of(repository, version, page=PageRequest(page_size, after)).page
        assert len(page.items) <= page_size
        if after is None:
            meanwhile()
        nodes += page.items
        if (after := page.next_position) is None:
            return nodes


@pytest.mark.parametrize("page_size", [1, 2, 4, 5])
def test_the_pages_of_a_lineage_have_all_that_the_first_one_saw_while_it_grows(
    repository: SqlRepository, page_size: int
) -> None:
    tree = Tree(repository)
    whole = [node.node_id for node in lineage(repository, tree.dev)]
    made: list[ModelVersion] = []

    def grow() -> None:
        sources = (tree.dev, tree.live, tree.other, tree.stage)
        made.extend(promote(repository, source, tree.models["live"].rid) for source in sources)

    nodes = all_pages(repository, tree.dev, page_size, grow)

    assert [node.node_id for node in nodes if node.node_id in whole] == whole
    assert {node.model_version_rid for node in nodes if node.node_id not in whole} <= {each.rid for each in made}
    assert all(previous is None or previous < place for place, (_, previous) in enumerate(links(nodes)))
    assert len(lineage(repository, tree.dev)) == len(whole) + 4


@pytest.mark.parametrize("page_size", [1, 2, 3])
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_promotion_that_began_before_others_and_ends_between_two_pages_shifts_nothing(
    repository: SqlRepository, page_size: int
) -> None:
    root = append(repository, builders.version(add_model(repository).rid))
    model = add_model(repository)
    holding, done = threading.Event(), threading.Event()
    slow: list[ModelVersion] = []

    def promote_slowly(tx: Transaction) -> ModelVersion:
        request = PromoteVersionRequest(
            model_rid=model.rid, source_model_version_rid=root.rid, branch="slow", preview=True
        )
        version = promote_version(tx, ADMIN, request)
        # Its answer comes behind what was sent before, so the version has its key now.
        tx.get_model(model.rid, ADMIN)
        holding.set()
        assert done.wait(30)
        return version

    thread = threading.Thread(target=lambda: slow.append(repository.write(promote_slowly)))
    thread.start()
    assert holding.wait(30)
    quick = [promote(repository, root, model.rid, branch=f"quick-{number}") for number in range(3)]

    def end() -> None:
        done.set()
        thread.join()
        # It is before the bound of the pages, which this one is not.
        promote(repository, slow[0], model.rid, branch="behind")

    nodes = all_pages(repository, root, page_size, end)

    known = {root.rid, *(version.rid for version in quick)}
    assert [rid for rid, _ in links(nodes) if rid in known] == [root.rid, *(version.rid for version in quick)]
    assert all(previous is None or previous < place for place, (_, previous) in enumerate(links(nodes)))
    assert links(lineage(repository, root))[1] == (slow[0].rid, 0)


def test_a_page_of_long_names_ends_early_but_never_empty(migrated_url: str, open_repository: OpenRepository) -> None:
    message_bytes = 40_000
    repository = open_repository(migrated_url, max_message_bytes=message_bytes)
    root = append(repository, builders.version(add_model(repository).rid))
    model = add_model(repository, "\U0001d4b3" * 700)
    for number in range(20):
        promote(repository, root, model.rid, branch="\U0001d4b3" * 240 + str(number))

    sizes, nodes, after = [], [], None
    while not sizes or after:
        page = page_of(repository, root, page=PageRequest(1000, after)).page
        sizes.append(GetLineageResponse(nodes=page.items).ByteSize())
        nodes += page.items
        after = page.next_position

    assert [previous for _, previous in links(nodes)] == [None] + [0] * 20
    assert len(sizes) > 2
    assert all(message_bytes / 2 < size <= message_bytes for size in sizes[:-1])
    (first, *_), following = page_of(
        open_repository(migrated_url, max_message_bytes=9000), root, page=PageRequest(9)
    ).page
    assert first.model_version_rid == root.rid
    assert following


class Large:
    """A chain and a fan-out of 10,000 promotions each, made past the rules."""

    def __init__(self, engine: Engine, repository: SqlRepository, url: str):
        self.root = append(repository, builders.version(add_model(repository).rid))
        self.other_root = append(repository, builders.version(self.root.model_rid))
        self.chain = self._fill(engine, repository, url, self.root, chained=True)
        self.fan_out = self._fill(engine, repository, url, self.other_root, chained=False)
        with engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE")

    def _fill(
        self, engine: Engine, repository: SqlRepository, url: str, root: ModelVersion, *, chained: bool
    ) -> list[str]:
        """Promote a version, and then the promoted one or the same one again and again; return the RIDs."""
        first = promote(repository, root, add_model(repository).rid)
        version, promotion = rows(url, versions)[-1], rows(url, promotions)[-1]
        made = [first.rid, *(f"ri.models.main.model-version.{uuid.uuid4()}" for _ in range(LENGTH - 1))]
        with engine.begin() as connection:
            numbers = range(1, LENGTH)
            connection.execute(
                insert(versions),
                [
                    {**version._mapping, "id": version.id + number, "rid": made[number], "version_number": number + 1}
                    for number in numbers
                ],
            )
            connection.execute(
                insert(promotions),
                [
                    {
                        **promotion._mapping,
                        "id": promotion.id + number,
                        "rid": rids.new_promotion_rid(),
                        "version_id": version.id + number,
                        "created_time": promotion.created_time + number,
                        "source_rid": made[number - 1] if chained else root.rid,
                    }
                    for number in numbers
                ],
            )
            connection.execute(branches.update().where(branches.c.id == version.branch_id).values(version_count=LENGTH))
            if engine.dialect.name == "postgresql":
                for table in ("versions", "promotions"):
                    connection.exec_driver_sql(
                        f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                    )
        return made


def test_a_page_of_a_lineage_of_ten_thousand_takes_four_statements_at_most(migrated_url: str) -> None:
    with opened(migrated_url) as (engine, repository):
        large = Large(engine, repository, migrated_url)
        for root, made, previous in (
            (large.root, large.chain, list(range(LENGTH))),
            (large.other_root, large.fan_out, [0] * LENGTH),
        ):
            found: list[LineageNode] = []
            after: int | str | None = None
            while True:
                with statements() as executed:
                    page, _ = page_of(repository, root, page=PageRequest(2500, after))
                assert len([each for each in executed if "PRAGMA" not in each.statement]) <= 4
                assert len(page.items) <= 2500
                found += page.items
                if (after := page.next_position) is None:
                    break
            assert links(found) == [(root.rid, None), *zip(made, previous, strict=True)]
        # Beside a chain there is nothing more, once that has been told from its end on.
        beside = promote(repository, large.root, add_model(repository).rid)
        sizes: list[int] = []
        after = None
        while not sizes or after is not None:
            page, _ = page_of(repository, large.root, page=PageRequest(1000, after))
            sizes.append(len(page.items))
            after = page.next_position
        assert (sum(sizes), traced_rid(page_of(repository, beside))) == (LENGTH + 2, beside.rid)
        assert sizes[-1] > 0
        for last in (large.chain[-1], large.fan_out[-1]):
            assert traced_rid(page_of(repository, last, page=PageRequest(2 * LENGTH))) == last
