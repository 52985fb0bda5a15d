"""Where a version came from and where it went. Each test runs on every backend."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import Engine, insert

from modelregistry.v1.access_service_pb2 import ROLE_VIEWER
from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_PROMOTION, LineageNode, Promotion
from server import rids
from server.caller import Caller
from server.errors import ModelVersionNotFound
from server.storage.promotions import Lineage
from server.storage.repository import PageRequest
from server.storage.sql.repository import SqlRepository
from server.storage.sql.tables import branches, promotions, versions
from tests import builders
from tests.builders import ADMIN, ALL, add_model, append, caller, promote
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
    """Each version's RID, and the index of the one that it was promoted from."""
    return [
        (node.model_version_rid, node.previous_index if node.HasField("previous_index") else None) for node in nodes
    ]


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
    assert [page_of(repository, version).traced_index for version in (tree.dev, tree.stage, tree.canary)] == [0, 1, 2]


def test_a_node_says_where_the_version_is_and_whether_it_is_live(timed: SqlRepository) -> None:
    tree = Tree(timed)
    append(timed, builders.version(tree.models["stage"].rid))

    root, stage, live, _ = lineage(timed, tree.stage)

    assert live == LineageNode(
        index=2,
        previous_index=1,
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
    assert not root.HasField("previous_index")


def test_what_the_caller_may_not_see_is_a_blank_in_its_place(repository: SqlRepository) -> None:
    tree = Tree(repository)
    for name in ("stage", "canary"):
        builders.grant(repository, tree.models[name].rid, "user:jane", ROLE_VIEWER)

    seen = lineage(repository, tree.stage, JANE)

    whole = lineage(repository, tree.stage)
    assert seen == [LineageNode(index=0), whole[1], LineageNode(index=2, previous_index=1), whole[3]]


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
    stored = append(repository, version)
    promotion = Promotion(
        rid=rids.new_promotion_rid(),
        kind=PROMOTION_KIND_PROMOTION,
        source_model_rid=model_rid,
        source_model_version_rid=previous_rid,
        model_version_rid=rid,
    )
    repository.write(lambda tx: tx.add_promotion(promotion, None))
    return stored


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


@pytest.mark.parametrize("page_size", [1, 2, 4, 5])
def test_pages_of_a_lineage_go_on_while_it_grows(repository: SqlRepository, page_size: int) -> None:
    tree = Tree(repository)
    nodes: list[LineageNode] = []
    after: int | str | None = None
    grown = []
    while True:
        page, traced = page_of(repository, tree.dev, page=PageRequest(page_size, after))
        assert len(page.items) <= page_size
        assert traced == 0
        nodes += page.items
        after = page.next_position
        if after is None:
            break
        if not grown:
            grown.append(promote(repository, tree.live, tree.models["live"].rid))

    expected = [
        (tree.dev.rid, None),
        (tree.stage.rid, 0),
        (tree.other.rid, 0),
        (tree.live.rid, 1),
        (tree.canary.rid, 1),
    ]
    assert links(nodes) == expected + [(version.rid, 3) for version in grown]
    assert [node.index for node in nodes] == list(range(len(nodes)))


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
            found: list[tuple[str, int | None]] = []
            after: int | str | None = None
            while True:
                with statements(engine) as executed:
                    page, _ = page_of(repository, root, page=PageRequest(2500, after))
                assert len([each for each in executed if "PRAGMA" not in each.statement]) == 2
                assert len(page.items) <= 2500
                found += links(page.items)
                if (after := page.next_position) is None:
                    break
            assert found == [(root.rid, None), *zip(made, previous, strict=True)]
        assert page_of(repository, large.chain[-1]).traced_index == LENGTH
        assert page_of(repository, large.fan_out[-1]).traced_index == 1
