"""ENFORCE_TRANSITIVE: what is to become the head is compared with each Model API that heads of the branch have had.

A branch may have very many heads, of which most have the Model API of the one before. So the distinct Model APIs are
recorded, each with the first version that had it since the mode was set. The contents of these versions stand for all
contents of the same Model API, so that the verdicts on them are soon stored, however many versions come.

Nothing is recorded when the mode is set: the first new head that finds nothing recorded records the one that it
replaces, too. So a policy that holds for many branches can set the mode as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_ENFORCE_TRANSITIVE
from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.promotion_pb2 import Promotion
from server.core.branches import level_of
from server.rules.compatibility import RULES_VERSION
from server.storage.contract import (
    BranchEnd,
    Comparison,
    HeadApi,
    PolicyPeriod,
    Reader,
    StoredVersion,
    Transaction,
)

# The modes under which an error refuses a new head.
ENFORCING = frozenset({COMPATIBILITY_MODE_ENFORCE, COMPATIBILITY_MODE_ENFORCE_TRANSITIVE})
# With more Model APIs than these, a branch gets no new head but by a rollback: each may have to be compared.
MOST_APIS = 256

NOTHING_MADE: Mapping[Comparison, Promotion] = MappingProxyType({})

# The RID of the model, and the name of the branch.
Place: TypeAlias = tuple[str, str]
# What is going to be recorded of a branch for a policy, the newest last.
Coming: TypeAlias = Mapping[tuple[Place, PolicyPeriod], Sequence[HeadApi]]
NOTHING_COMING: Coming = MappingProxyType({})


class Broken(NamedTuple):
    """An earlier Model API that a candidate is incompatible with: its version, and what was found."""

    version_number: int
    findings: Callable[[], Promotion]

    @classmethod
    def by(cls, api: HeadApi, found: Promotion) -> Broken:
        """Return what a comparison with a Model API has found, of which some are errors."""
        return cls(api.version_number, lambda: found)


class ApiHistory(NamedTuple):
    """What a candidate is compared with beside the head for one policy: Model APIs of heads since then, newest first.

    `candidate` is what stands for the candidate: itself, or what is recorded of its Model API. That is not among the
    `others`, and neither is the version that is the head. `unrecorded` is what is to be recorded once the candidate is
    the head. If it `is_too_long`, there are more Model APIs than are compared.
    """

    period: PolicyPeriod
    candidate: HeadApi
    others: tuple[HeadApi, ...]
    unrecorded: tuple[HeadApi, ...]
    is_too_long: bool

    def comparison(self, api: HeadApi) -> Comparison:
        """Return what has to be compared for the candidate to come after one of the others."""
        return Comparison(api.content_digest, self.candidate.content_digest, RULES_VERSION)

    @property
    def lacking(self) -> list[Comparison]:
        """What has to be compared and was not yet."""
        return [] if self.is_too_long else [self.comparison(api) for api in self.others if api.verdict is None]


def api_histories(
    reader: Reader, place: Place, end: BranchEnd, source: StoredVersion, coming: Coming = NOTHING_COMING
) -> tuple[ApiHistory, ...]:
    """Return what the source is compared with beside the head of a branch: for each policy that asks for it.

    `coming` is what is going to be recorded before the source is the head.
    """
    levels = [policy for policy in end.policies if policy.compatibility == COMPATIBILITY_MODE_ENFORCE_TRANSITIVE]
    if not levels:
        return ()
    source_api = HeadApi(_digest_of(source.version.model_api), end.next_number, source.content_digest)
    periods = [PolicyPeriod(level_of(level, place[0]), level.compatibility_since_revision) for level in levels]
    return tuple(_history(reader, period, end, source_api, coming.get((place, period), ())) for period in periods)


def newest_broken(
    reader: Reader, histories: Iterable[ApiHistory], made: Mapping[Comparison, Promotion] = NOTHING_MADE
) -> Broken | None:
    """Return the newest Model API that a policy compares with and that is broken; None if there is none.

    What was found is stored, or among what was `made`.
    """
    for history in histories:
        for api in () if history.is_too_long else history.others:
            if api.verdict is not None and api.verdict.error_count:
                return Broken(api.version_number, partial(reader.get_findings, api.verdict))
            found = made.get(history.comparison(api))
            if api.verdict is None and found is not None and found.error_count:
                return Broken.by(api, found)
    return None


def record(tx: Transaction, place: Place, histories: Iterable[ApiHistory]) -> None:
    """Record what is not recorded yet, now that the candidate is stored as the head of a branch."""
    for history in histories:
        for api in history.unrecorded:
            tx.add_head_api(*place, history.period, api)


def _history(
    reader: Reader, period: PolicyPeriod, end: BranchEnd, source_api: HeadApi, before: Sequence[HeadApi]
) -> ApiHistory:
    candidate = _same(source_api, before) or source_api
    recorded = (
        [] if end.key is None else reader.list_head_apis(end.key, period, candidate, RULES_VERSION, MOST_APIS + 1)
    )
    unrecorded: list[HeadApi] = []
    if not recorded and not before and end.head is not None:
        head_api = reader.get_model_api(end.head.content_digest)
        unrecorded.append(HeadApi(_digest_of(head_api), end.next_number - 1, end.head.content_digest))
    newest_first = [*reversed([*before, *unrecorded]), *recorded]
    known = _same(source_api, newest_first)
    if known is None:
        unrecorded.append(source_api)
    others = [
        api
        for api in newest_first
        if api.api_digest != source_api.api_digest and api.version_number != end.next_number - 1
    ]
    history = ApiHistory(
        period, known or source_api, tuple(others), tuple(unrecorded), is_too_long=len(newest_first) > MOST_APIS
    )
    # What is not recorded yet was listed without its verdict.
    of_coming = {api: reader.find_verdict(history.comparison(api)) for api in others if api not in recorded}
    return history._replace(others=tuple(api._replace(verdict=of_coming.get(api, api.verdict)) for api in others))


def _same(wanted: HeadApi, among: Sequence[HeadApi]) -> HeadApi | None:
    """Return the one with the same Model API, if there is one."""
    return next((api for api in among if api.api_digest == wanted.api_digest), None)


def _digest_of(api: ModelApi) -> bytes:
    known = ModelApi()
    known.CopyFrom(api)
    known.DiscardUnknownFields()
    return hashlib.sha256(known.SerializeToString(deterministic=True)).digest()
