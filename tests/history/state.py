"""All that a registry holds of some models, read while nothing is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from modelregistry.v1.model_pb2 import ModelVersion
from modelregistry.v1.promotion_pb2 import Promotion
from tests.history.operations import Version
from tests.rpc.harness import User

MOST = 1000
# The experiment of a version that was created, not promoted, names the write that made it.
TAG = "ri.models.main.experiment."


class Record(NamedTuple):
    """The record of a promotion."""

    rid: str
    version_rid: str
    model_rid: str
    branch: str
    number: int
    source_rid: str
    replaced_rid: str
    created_ms: int
    tag: str


class State(NamedTuple):
    """The versions of some models, in the order of the lists, and the promotions into them."""

    versions: tuple[Version, ...] = ()
    records: tuple[Record, ...] = ()


def read_state(user: User, *model_rids: str) -> State:
    """Read everything of these models, page by page."""
    versions: list[Version] = []
    records: list[Record] = []
    for model_rid in model_rids:
        promotions = [each for page in pages(user, "ListPromotions", model_rid=model_rid) for each in page.promotions]
        reasons = {promotion.model_version_rid: promotion.reason for promotion in promotions}
        records += map(record_of, promotions)
        for branches in pages(user, "ListBranches", model_rid=model_rid):
            for branch in branches.branches:
                for page in pages(user, "ListModelVersions", model_rid=model_rid, branch=branch.name):
                    for message in page.model_versions:
                        tag = reasons.get(message.rid, message.linked_experiment.removeprefix(TAG))
                        versions.append(version_of(message)._replace(tag=tag))
    return State(tuple(versions), tuple(records))


def pages(user: User, rpc: str, **fields: Any) -> Iterator[Any]:
    """The pages of a list."""
    request = {"page_size": MOST, **fields}
    while request:
        page = user(rpc, **request)
        yield page
        request = {**request, "page_token": page.next_page_token} if page.next_page_token else {}


def version_of(message: ModelVersion) -> Version:
    """What a message says of a version."""
    copied = ModelVersion(
        model_api=message.model_api,
        conda_requirements=message.conda_requirements,
        backing_repositories=message.backing_repositories,
        linked_experiment=message.linked_experiment,
    )
    return Version(
        rid=message.rid,
        model_rid=message.model_rid,
        branch=message.branch,
        number=message.version_number,
        created_ms=message.created_time.ToMilliseconds(),
        content=hashlib.sha256(copied.SerializeToString(deterministic=True)).hexdigest()[:16],
        source_rid=message.source.promoted.previous_model_version_rid,
        root_rid=message.root_model_version_rid,
    )


def record_of(promotion: Promotion) -> Record:
    """What a record says of a promotion."""
    return Record(
        rid=promotion.rid,
        version_rid=promotion.model_version_rid,
        model_rid=promotion.model_rid,
        branch=promotion.branch,
        number=promotion.version_number,
        source_rid=promotion.source_model_version_rid,
        replaced_rid=promotion.replaced_version_rid,
        created_ms=promotion.created_time.ToMilliseconds(),
        tag=promotion.reason,
    )
