"""Where a version came from and where it went. Each test runs on every backend."""

from __future__ import annotations

import base64
import threading
import uuid
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, insert

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
from tests.storage.inspection import opened, rows, statements

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
        (tree.other.rid, 0),
        (tree.live.rid, 1),
        (tree.canary.rid, 1),
    ]
    # Not what else was made of its predecessors.
    assert links(lineage(repository, tree.stage)) == [
        (tree.dev.rid, None),
        (tree.stage.rid, 0),
        (tree.live.rid, 1),
        (tree.canary.rid, 1),
    ]
    assert links(lineage(repository, tree.canary)) == [(tree.dev.rid, None), (tree.stage.rid, 0), (tree.canary.rid, 1)]
    assert links(lineage(repository, tree.unrelated)) == [(tree.unrelated.rid, None)]
    for version in (tree.dev, tree.stage, tree.canary):
        assert traced_rid(page_of(repository, version)) == version.rid


def test_a_node_says_where_the_version_is_and_whether_it_is_live(timed: SqlRepository) -> None:
    tree = Tree(timed)
    append(timed, builders.version(tree.models["stage"].rid))

    root, stage, live, _ = lineage(timed, tree.stage)

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
    )
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
    root, stage, live, canary = whole
    assert seen == [
        LineageNode(node_id=root.node_id),
        stage,
        LineageNode(node_id=live.node_id, previous_node_id=stage.node_id),
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
    assert {len(name) for name in opaque} == {22}


@pytest.mark.parametrize("position", ["", "1", "A" * 21, "A" * 44, "?" * 22, "ä"])
def test_a_position_at_which_no_page_ended_is_refused(repository: SqlRepository, position: str) -> None:
    with pytest.raises(InvalidPageToken):
        page_of(repository, Tree(repository).dev, page=PageRequest(2, position))


def test_a_position_that_was_made_up_is_refused_or_chooses_where_a_page_begins(repository: SqlRepository) -> None:
    tree = Tree(repository)
    known = {node.node_id for node in lineage(repository, tree.dev)}
    refused = 0
    for number in range(64):
        position = base64.urlsafe_b64encode(number.to_bytes(16, "big")).decode().rstrip("=")
        try:
            page = page_of(repository, tree.dev, page=PageRequest(2, position)).page
        except InvalidPageToken:
            refused += 1
        else:
            assert {node.node_id for node in page.items} <= known
    assert 0 < refused < 64
    for node_id in known:
        with pytest.raises(InvalidPageToken):
            page_of(repository, tree.dev, page=PageRequest(2, node_id))


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

    assert links(lineage(repository, again)) == [(first.rid, None), (again.rid, 0), (branched.rid, 1)]


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

    assert links(lineage(repository, promoted)) == [(version.rid, None), (promoted.rid, 0)]


def test_versions_that_claim_to_be_made_of_each_other_do_not_go_round_for_ever(repository: SqlRepository) -> None:
    model = add_model(repository)
    one, two, self_made = (rids.new_model_version_rid() for _ in range(3))
    first = imported(repository, model.rid, one, two)
    imported(repository, model.rid, two, one)
    alone = imported(repository, model.rid, self_made, self_made)

    assert links(lineage(repository, first)) == [(one, 1), (two, 0)]
    assert links(lineage(repository, alone)) == [(self_made, 0)]


def all_pages(
    repository: SqlRepository, version: ModelVersion, page_size: int, meanwhile: Callable[[], object]
) -> list[LineageNode]:
    """The nodes of all pages; behind the first one, something happens."""
    nodes, after = [], None
    while True:
        page = page_of(repository, version, page=PageRequest(page_size, after)).page
        assert len(page.items) <= page_size
        if after is None:
            meanwhile()
        nodes += page.items
        if (after := page.next_position) is None:
            return nodes


@pytest.mark.parametrize("page_size", [1, 2, 4, 5])
def test_the_pages_of_a_lineage_are_the_lineage_of_the_first_one_while_it_grows(
    repository: SqlRepository, page_size: int
) -> None:
    tree = Tree(repository)
    whole = lineage(repository, tree.dev)

    nodes = all_pages(repository, tree.dev, page_size, lambda: promote(repository, tree.live, tree.models["live"].rid))

    assert [node.node_id for node in nodes] == [node.node_id for node in whole]
    assert len(lineage(repository, tree.dev)) == len(whole) + 1


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

    seen = [rid for rid, _ in links(nodes)]
    assert [rid for rid in seen if rid not in {version.rid for version in slow}] == [
        root.rid,
        *(version.rid for version in quick),
    ]
    assert [previous for _, previous in links(nodes)] == [None] + [0] * (len(nodes) - 1)
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


def test_a_page_of_a_lineage_of_ten_thousand_takes_two_statements(migrated_url: str) -> None:
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
                assert len([each for each in executed if "PRAGMA" not in each.statement]) == 2
                assert len(page.items) <= 2500
                found += page.items
                if (after := page.next_position) is None:
                    break
            assert links(found) == [(root.rid, None), *zip(made, previous, strict=True)]
        for last in (large.chain[-1], large.fan_out[-1]):
            assert traced_rid(page_of(repository, last, page=PageRequest(2 * LENGTH))) == last
