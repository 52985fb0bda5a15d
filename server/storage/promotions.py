"""The part of the contract of storage that promotions take; `server.storage.repository` has the rest, and the rules."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from modelregistry.v1.compatibility_pb2 import CompatibilityMode
from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.promotion_pb2 import BranchPolicy, LineageNode, Promotion
from server.caller import Caller
from server.storage.paging import Page, PageRequest
from server.storage.values import StoredVersion


class Head(NamedTuple):
    """The newest version of a branch: its RID, its content, and when it was created, in ms since the epoch."""

    rid: str
    content_digest: bytes
    created_ms: int


class BranchEnd(NamedTuple):
    """Where a branch goes on: the number that its next version gets, its head if it has one, and its policy."""

    next_number: int
    head: Head | None
    compatibility: CompatibilityMode.ValueType


class Comparison(NamedTuple):
    """What a verdict is about: the contents of a head and of a candidate, by digest, and the version of the rules."""

    head_digest: bytes
    candidate_digest: bytes
    rules: int


class Verdict(NamedTuple):
    """A verdict that is stored: its key, and how many errors it has."""

    key: int
    error_count: int


class RequestKey(NamedTuple):
    """What a request with an id is found by: the principal who made it, the RPC, and the id."""

    caller: str
    rpc: str
    request_id: str


class EarlierRequest(NamedTuple):
    """A request that was carried out: the SHA-256 of what it asked for, and the RIDs of what it made."""

    digest: bytes
    results: tuple[str, ...]


class PromotionFilter(NamedTuple):
    """Which promotions are wanted; None lets all through. Times are in ms since the epoch."""

    model_rid: str | None = None
    branch: str | None = None
    source_rid: str | None = None
    version_rid: str | None = None
    created_by: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class Lineage(NamedTuple):
    """A page of a lineage, and the node_id of the version that was asked for."""

    page: Page[LineageNode]
    traced_node_id: str


class PromotionReader(Protocol):
    """Questions about promotions."""

    def get_branch_end(self, model_rid: str, branch: str) -> BranchEnd:
        """Return where a branch goes on, whether it exists or not. The model must be stored."""

    def find_numbered_version(
        self, model_rid: str, branch: str, version_number: int, caller: Caller
    ) -> StoredVersion | None:
        """Return a version of a branch by its number; None if there is none, or if the caller may not see the model."""

    def find_verdict(self, comparison: Comparison) -> Verdict | None:
        """Return the verdict on two contents; None if none is stored."""

    def get_findings(self, verdict: Verdict) -> Promotion:
        """Return what a stored verdict found: a message with findings and their counts, and nothing else."""

    def get_model_api(self, content_digest: bytes) -> ModelApi:
        """Return the Model API of a content, which must be stored."""

    def find_request(self, key: RequestKey) -> EarlierRequest | None:
        """Return the request that was carried out under a key; None if there was none."""

    def find_promotion(self, promotion_rid: str, caller: Caller) -> Promotion | None:
        """Return a promotion; None if it is absent or the caller may not see its target model.

        The source is unset if it is not stored, or if the caller may not see its model.
        """

    def get_promotion_rid(self, model_version_rid: str) -> str:
        """Return the RID of the promotion that made a version, which must be stored and promoted."""

    def list_promotions(self, caller: Caller, wanted: PromotionFilter, page: PageRequest) -> Page[Promotion]:
        """Return the promotions that the caller may see, newest first; sources as in find_promotion.

        By a source that the caller may not see none is found. The position is opaque. Promotions that others add
        meanwhile neither shift nor repeat an item of a later page. A page ends early, but never empty, where its
        promotions would not fit into one message. Raises InvalidPageToken for a position that no page ended at.
        """

    def get_lineage(self, model_version_rid: str, caller: Caller, page: PageRequest) -> Lineage:
        """Return a version, its predecessors and all its descendants, in the order in which they were stored.

        Of what the caller may not see, only node_id and previous_node_id are set. The position is opaque, and holds how
        far the first page saw: what is stored later is on no page, or else behind all that it was promoted from. A page
        ends early, but never empty, where its nodes would not fit into one message. Raises
        ModelVersionNotFound if the version is absent or the caller may not see its model, and InvalidPageToken for a
        position that no page ended at.
        """

    def get_policy(self, model_rid: str, branch: str) -> BranchPolicy:
        """Return the newest policy of a branch; COMPATIBILITY_MODE_WARN and nothing else if it has none."""


class PromotionTransaction(Protocol):
    """Changes that promotions make."""

    def hold_branch(self, model_rid: str, branch: str) -> None:
        """Make other transactions wait that extend this branch; whoever holds a branch must extend it.

        The branch is created if it is new. The model must be stored.
        """

    def extend_branch(self, model_rid: str, branch: str) -> BranchEnd:
        """Take the next number of a branch for a version that is then appended, and return where the branch goes on.

        The branch is created if it is new. Transactions that extend one branch wait for each other here. The model must
        be stored.
        """

    def add_verdict(self, comparison: Comparison, findings: Promotion) -> Verdict:
        """Store what a comparison found: the findings and their counts, which are all of the message that is set."""

    def claim_request(self, key: RequestKey, request: EarlierRequest) -> EarlierRequest | None:
        """Record a request with what it is about to make; or return the one that was carried out under the key.

        Transactions that claim one key wait for each other here. What was returned lasts once the transaction has
        committed, even if the COMMIT that carried it out was interrupted.
        """

    def add_promotion(self, promotion: Promotion, verdict: Verdict | None) -> None:
        """Record a promotion; its version, which says who made it and when, must be stored, and its source need not."""

    def add_policy(
        self, model_rid: str, branch: str, mode: CompatibilityMode.ValueType, changed_by: str
    ) -> BranchPolicy:
        """Record a policy of a branch, by whom and when, and return it. Earlier ones stay. The model must be stored."""
