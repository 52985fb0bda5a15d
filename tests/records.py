"""What must hold of the records of promotions, whatever happened to the calls that made them."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_pb2 import PROMOTION_KIND_ROLLBACK, Promotion
from tests.rpc.harness import User

MOST = 1000


class Records(NamedTuple):
    """All versions of some models by RID, and the promotions by the version that each made, both in some order."""

    versions: dict[str, ModelVersion]
    promotions: dict[str, Promotion]


def consistent_records(admin: User, *model_rids: str) -> Records:
    """Read everything of these models, which are promoted among each other alone, and see that it fits together."""
    versions: dict[str, ModelVersion] = {}
    listed: list[Promotion] = []
    for model_rid in model_rids:
        versions |= _versions(admin, model_rid)
        listed += _promotions(admin, model_rid)
    promotions = {promotion.model_version_rid: promotion for promotion in listed}
    assert len(promotions) == len(listed), "one record for each version"
    assert len({promotion.rid for promotion in listed}) == len(listed)
    assert promotions.keys() == {rid for rid, version in versions.items() if version.source.HasField("promoted")}
    numbered = {(v.model_rid, v.branch, v.version_number): rid for rid, v in versions.items()}
    for rid, promotion in promotions.items():
        version, source = versions[rid], versions[promotion.source_model_version_rid]
        place = (version.model_rid, version.branch, version.version_number)
        assert (promotion.model_rid, promotion.branch, promotion.version_number) == place
        assert promotion.replaced_version_rid == numbered.get((*place[:2], place[2] - 1), "")
        assert (promotion.created_by, promotion.created_time) == (version.created_by, version.created_time)
        assert promotion.source_model_rid == source.model_rid == version.source.promoted.previous_model_rid
        assert version.source.promoted.previous_model_version_rid == source.rid
        assert version.root_model_version_rid == source.root_model_version_rid
        assert version.model_api == source.model_api
        if promotion.kind == PROMOTION_KIND_ROLLBACK:
            assert (source.model_rid, source.branch) == place[:2]
            assert source.version_number < version.version_number - 1
    _assert_lineage(admin, versions, promotions)
    return Records(versions, promotions)


def _versions(admin: User, model_rid: str) -> dict[str, ModelVersion]:
    """The versions of a model, whose branches have numbers without gaps, and the last one as the head."""
    found = {}
    for branch in admin("ListBranches", model_rid=model_rid, page_size=MOST).branches:
        request = {"model_rid": model_rid, "branch": branch.name, "page_size": MOST}
        versions: list[ModelVersion] = []
        while request:
            page = admin("ListModelVersions", **request)
            versions += page.model_versions
            request = {**request, "page_token": page.next_page_token} if page.next_page_token else {}
        assert [version.version_number for version in versions] == list(range(len(versions), 0, -1))
        assert (branch.head, branch.version_count) == (versions[0], len(versions))
        found |= {version.rid: version for version in versions}
    return found


def _promotions(admin: User, model_rid: str) -> list[Promotion]:
    """The promotions into a model, newest first."""
    promotions: list[Promotion] = []
    request = {"model_rid": model_rid, "page_size": MOST}
    while request:
        page = admin("ListPromotions", **request)
        promotions += page.promotions
        request = {**request, "page_token": page.next_page_token} if page.next_page_token else {}
    times = [promotion.created_time.ToMilliseconds() for promotion in promotions]
    assert all(newer >= older for newer, older in pairwise(times))
    return promotions


def _assert_lineage(admin: User, versions: dict[str, ModelVersion], promotions: dict[str, Promotion]) -> None:
    """From each root the lineage leads to all that has this root, each beside what it was made of."""
    for root in versions.keys() - promotions.keys():
        assert versions[root].root_model_version_rid == root
        nodes = []
        request = {"model_version_rid": root, "page_size": MOST}
        while request:
            page = admin("GetLineage", **request)
            nodes += page.nodes
            request = {**request, "page_token": page.next_page_token} if page.next_page_token else {}
        by_id = {node.node_id: node.model_version_rid for node in nodes}
        rids = list(by_id.values())
        assert sorted(rids) == sorted(rid for rid, each in versions.items() if each.root_model_version_rid == root)
        assert rids[0] == root
        for node in nodes[1:]:
            assert by_id[node.previous_node_id] == promotions[node.model_version_rid].source_model_version_rid
            assert node.promotion_rid == promotions[node.model_version_rid].rid
