"""The contract of storage. The docstrings are binding: the conformance suite holds every backend to each sentence.

What the caller of a question may not see is answered like what does not exist, and is filtered before paging. A
question without a caller asks for no access: the rule has checked it before. Any call can raise StorageUnavailable, and
Overloaded where certainly nothing was done. What is done for a call ends with it, by CallOver of
`server.core.cancellation`; a change has then been committed as a whole or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from modelregistry.v1.access_service_pb2 import DisabledPrincipal, FolderPolicy, Grant, GrantChange, NewModelOwner, Role
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_WARN, CompatibilityMode
from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.model_api_pb2 import ModelApi
from modelregistry.v1.model_pb2 import Branch, Model, ModelVersion
from modelregistry.v1.promotion_pb2 import BranchPolicy, LineageNode, Promotion
from modelregistry.v1.promotion_request_pb2 import (
    PolicyChange,
    PromotionRequest,
    PromotionRequestState,
    PromotionReview,
)
from modelregistry.v1.recall_service_pb2 import LiveCopy, Yank
from modelregistry.v1.subscription_pb2 import Delivery, DeliveryState, Subscription
from server.core.caller import Caller
from server.core.config import NO_QUOTA, FileQuota
from server.core.event_types import EventType
from server.core.integrity import BEGINNING
from server.storage.paging import Page, PageRequest, Position

T = TypeVar("T")

# An observer of statements: it is called with the text of a statement that begins, and returns what is called with the
# error that it ends with, if any; or None if the end is of no interest.
StatementObserver: TypeAlias = Callable[[str], Callable[[BaseException | None], None] | None]


class StoredVersion(NamedTuple):
    """A version as it is stored.

    `content_digest` is the SHA-256 under which its immutable content is shared. `legacy_source` is the source as JSON
    text where ModelVersionSource cannot express it; the version's `source` is unset then. `hides_source` and
    `hides_root` say that the caller who asked may not see the version that it was promoted from, or its root, or that
    these are not stored. `is_yanked` says that it is yanked at the moment, or what it came from, or its lineage.
    """

    version: ModelVersion
    content_digest: bytes
    legacy_source: str | None
    hides_source: bool = False
    hides_root: bool = False
    is_yanked: bool = False

    def as_seen(self) -> ModelVersion:
        """Return the version as its caller may see it: `yanked`, and with the RIDs of a hidden source and root empty.

        The message may be shared: copy it before changing it.
        """
        if not self.hides_source and not self.hides_root and not self.is_yanked:
            return self.version
        seen = ModelVersion()
        seen.CopyFrom(self.version)
        if self.hides_source and seen.source.HasField("promoted"):
            seen.source.promoted.Clear()
            seen.source.promoted.SetInParent()
        if self.hides_root:
            seen.ClearField("root_model_version_rid")
        if self.is_yanked:
            seen.yanked = True
        return seen


class VisibleModel(NamedTuple):
    """A model that the caller may see, and the caller's highest role on it or on its folder."""

    model: Model
    role: Role.ValueType


class Head(NamedTuple):
    """The newest version of a branch: its RID, its content, and when it was created, in ms since the epoch."""

    rid: str
    content_digest: bytes
    created_ms: int


# Of how many versions `Reader.list_tenures` tells at most.
MOST_TENURES = 1000

# What holds for a branch where no policy is set.
NO_POLICY = BranchPolicy(compatibility=COMPATIBILITY_MODE_WARN)


class BranchEnd(NamedTuple):
    """Where a branch goes on: the number that its next version gets, its head if it has one, and its policies.

    The first policy is the branch's own, behind it is that of the model's folder if one was set. Of a policy, the
    rules, the revision and a folder's RID are told. `key` is what storage finds the branch by; None if there is no such
    branch yet. `chain` is the hash of the promotion that its next one is chained to.
    """

    next_number: int
    head: Head | None
    policies: tuple[BranchPolicy, ...] = (NO_POLICY,)
    key: int | None = None
    chain: bytes = BEGINNING

    @property
    def compatibility(self) -> CompatibilityMode.ValueType:
        """What becomes of findings: the strictest mode of all policies."""
        return max([policy.compatibility for policy in self.policies])


class Promoted(NamedTuple):
    """A version that a promotion made, and the hash of the promotion in the chain of its branch."""

    version: ModelVersion
    chain: bytes


class Comparison(NamedTuple):
    """What a verdict is about: the contents of a head and of a candidate, by digest, and the version of the rules."""

    head_digest: bytes
    candidate_digest: bytes
    rules: int


class Verdict(NamedTuple):
    """A verdict that is stored: its key, and how many errors it has."""

    key: int
    error_count: int


class PolicyPeriod(NamedTuple):
    """The time in which a rule of a policy holds without a break: since this revision of it.

    `level_rid` says whose policy it is: that of a branch of this model, or that of this folder for a branch.
    """

    level_rid: str
    since_revision: int


class HeadApi(NamedTuple):
    """A Model API that heads of a branch have had: its SHA-256, and the number and the content of the first of them.

    `verdict` is the one on a candidate in its place, if one is stored.
    """

    api_digest: bytes
    version_number: int
    content_digest: bytes
    verdict: Verdict | None = None


class RequestKey(NamedTuple):
    """What a request with an id is found by: the principal who made it, the RPC, and the id."""

    caller: str
    rpc: str
    request_id: str


class RequestRecord(NamedTuple):
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


class PromotionRequestFilter(NamedTuple):
    """Which requests for promotion are wanted; None lets all through.

    `closed_as` is what they were closed as, `is_open` lets only those through that were not.
    """

    model_rid: str | None = None
    branch: str | None = None
    requested_by: str | None = None
    closed_as: PromotionRequestState.ValueType | None = None
    is_open: bool = False


class StoredRequest(NamedTuple):
    """A request for promotion, and what its state follows from: the policies of the branch and the RID of its head.

    Of a request for a change, that is the policy to be changed alone, which can have revision 0, and no head.

    Of the request, what is stored is told: its state is OPEN until it is closed, `expire_time` is what the policies
    said when it was made, and the oldest reviews come first. The source is unset if the caller may not see its model;
    of a change all is told. `position` is where a page ends behind it, of one that was listed.
    """

    request: PromotionRequest
    policies: tuple[BranchPolicy, ...]
    head_rid: str | None
    position: Position | None = None


class Lineage(NamedTuple):
    """A page of a lineage, and the node_id of the version that was asked for."""

    page: Page[LineageNode]
    traced_node_id: str


class LiveCopies(NamedTuple):
    """A page of the branches where a version is live, and how many there are on this page and those behind it."""

    page: Page[LiveCopy]
    remaining: int


class WantedPromotion(NamedTuple):
    """Where a version is to be promoted to; `rules` is the version of those by which contents are compared.

    `source_rid` is None where it is known that there is no such version.
    """

    model_rid: str
    branch: str
    source_rid: str | None
    rules: int


class PromotionFacts(NamedTuple):
    """What is stored of all that decides a promotion, at one moment and for one caller.

    `role` is the caller's on the target; None if that is absent or invisible, and then nothing else is told. `source`
    is None if it is absent or invisible. `verdict` is the one on the source in place of the branch's head, if one is
    stored. `yank` is one that stops the source, if any does: one of a version that the caller may see, or else an empty
    one. `now_ms` is when this was read, in ms since the epoch.
    """

    role: Role.ValueType | None
    source: StoredVersion | None
    branch: BranchEnd
    verdict: Verdict | None
    now_ms: int
    yank: Yank | None = None


class Tenure(NamedTuple):
    """For how long a version was, or is, the head of a branch: the RID of its model, the name of the branch, and times.

    `since_ms` and `until_ms` are in ms since the epoch, the latter None of a version that is the head.
    """

    model_rid: str
    branch: str
    since_ms: int
    until_ms: int | None


class StoredFile(NamedTuple):
    """Complete model files: the SHA-256 of their bytes, how many these are, and the object that holds them."""

    digest: bytes
    size: int
    object_name: str


class FileUse(NamedTuple):
    """How many bytes of model files count for a holder, which is a principal or a folder."""

    holder: str
    size: int


class UploadKey(NamedTuple):
    """What an upload is found by: the SHA-256 of its id, the principal who made it, and the model that it is for."""

    id_digest: bytes
    caller: str
    model_rid: str

    @classmethod
    def of(cls, upload_id: str, caller: Caller, model_rid: str) -> UploadKey:
        """Return the key of the upload that a caller names, whether there is one or not."""
        return cls(hashlib.sha256(upload_id.encode()).digest(), caller.user, model_rid)


class EventFilter(NamedTuple):
    """Which events are wanted: those that everything lets through that is not None.

    `model_rid` names a model that the caller sees, `folder_rid` a folder, with the models in it. Times are in ms since
    the epoch: from `since_ms` on, and before `until_ms`.
    """

    model_rid: str | None = None
    folder_rid: str | None = None
    branch: str | None = None
    types: frozenset[EventType] | None = None
    actor: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class Grantees(NamedTuple):
    """Who has which role on a model or folder, the highest of each principal; on a model also by its folder.

    `folder_rid` is the folder of the model; None of a folder.
    """

    folder_rid: str | None
    roles: Mapping[str, Role.ValueType]


class KeptEvent(NamedTuple):
    """An event, its key, and whether the caller is an owner of what it is about."""

    key: int
    event: Event
    is_owner: bool


class LogEnd(NamedTuple):
    """Up to where a log can be read: the key of what is there, 0 if nothing is, and what that is called.

    By the key alone, another one would be taken for it that has got its key since, when the log had lost it.
    """

    key: int = 0
    name: str = ""


class SealedSecrets(NamedTuple):
    """The secrets of a subscription, encrypted: the newest, and the one before as long as it signs, too."""

    newest: bytes
    previous: bytes | None = None


class QueueLease(NamedTuple):
    """A lease of the queue of a subscription: the key of the subscription, and what no other lease is called."""

    subscription_key: int
    name: str


class QueuedDelivery(NamedTuple):
    """A delivery that waits: its key, the key of its event, and what is to be sent for whom and with which secrets.

    `attempts` is how many there were, `tried_since_ms` when the first of them began since the event was queued, None if
    there was none, and `queued_ms` when that was; in ms since the epoch.
    """

    key: int
    event_key: int
    subscription: Subscription
    secrets: SealedSecrets
    attempts: int
    queued_ms: int
    tried_since_ms: int | None


class AttemptEnd(NamedTuple):
    """How an attempt ended: with what status and first bytes of an answer, or why without one, and how long it took."""

    http_status: int | None = None
    answer: bytes | None = None
    error: str | None = None
    duration_ms: int = 0

    @property
    def is_success(self) -> bool:
        """Whether the receiver took the event."""
        return self.error is None and self.http_status is not None and 200 <= self.http_status < 300


class DeliveryWork(NamedTuple):
    """Whether there are events that may have to be queued, and whether a queue is due that nobody works on."""

    is_behind: bool
    is_due: bool


class Requeued(NamedTuple):
    """How many events were queued again, and the key of the one to go on behind; None if there are no more."""

    queued: int
    last_key: int | None


class Reader(Protocol):
    """Questions that change nothing."""

    def get_model(self, model_rid: str, caller: Caller) -> VisibleModel:
        """Return the model. Raises ModelNotFound if it is absent or the caller has no role on it or its folder."""

    def list_models(self, caller: Caller, parent_folder_rid: str | None, page: PageRequest) -> Page[Model]:
        """Return the models that the caller may see, by RID, of one folder if one is given."""

    def find_version(self, model_version_rid: str, caller: Caller) -> StoredVersion | None:
        """Return the version, of whichever model; None if it is absent or the caller may not see its model.

        Absent and invisible ones take the same statements, whatever was read before, and nothing is read of a content
        that the caller may not see. The message is shared with other callers: copy it before changing it.
        """

    def get_branch(self, model_rid: str, branch: str, caller: Caller) -> Branch:
        """Return the branch with its head, as `as_seen` shows it; one with a legacy source has `source` unset.

        Raises ModelNotFound as get_model does, BranchNotFound if the model has no such branch.
        """

    def list_branches(self, model_rid: str, caller: Caller, page: PageRequest) -> Page[Branch]:
        """Return the branches by name, in the order of code points, heads as in get_branch.

        Raises ModelNotFound as get_model does.

        A page ends early, but never empty, where its versions would not fit into one message.
        """

    def list_versions(self, model_rid: str, branch: str, caller: Caller, page: PageRequest) -> Page[ModelVersion]:
        """Return the versions of one branch, newest first, as in get_branch; none if the model has no such branch.

        Raises ModelNotFound as get_model does. Versions that others add meanwhile neither shift nor repeat an item of
        a later page. A page ends early, but never empty, where its versions would not fit into one message.
        """

    def require_fitting(self, version: ModelVersion) -> None:
        """Raise RequestTooLarge if `put_content` would refuse the content of this version."""

    def get_promotion_facts(self, wanted: WantedPromotion, caller: Caller) -> PromotionFacts:
        """Return what decides a promotion, all of it as of one moment.

        A source that is absent and one that is invisible take the same statements, as in find_version.
        """

    def list_tenures(self, model_version_rid: str) -> list[Tenure]:
        """Return for how long a version, which must be stored, and those that it was promoted from were heads.

        Each comes before the one that it was promoted from. The list ends before one that is not stored, has another
        content or is in it already, all of which an import can name, and with the MOST_TENURES-th. What was imported
        is a head from its import on, and what it replaced is one until then, whatever time it has itself.
        """

    def was_rolled_back(self, branch: BranchEnd, content_digest: bytes) -> bool:
        """Return whether a branch, which must be stored, was rolled back from a content that it has not taken in since.

        It takes in the content of a version that is created on it or promoted to it, and that of a rollback with an
        override. A rollback leaves what was taken in between it and the version that it goes back to, but for the
        content of that one.
        """

    def visible_models(self, model_rids: Collection[str], caller: Caller) -> set[str]:
        """Return those of the models that are stored and that the caller may see."""

    def find_numbered_version(
        self, model_rid: str, branch: str, version_number: int, caller: Caller
    ) -> StoredVersion | None:
        """Return a version of a branch by its number; None if there is none, or if the caller may not see the model."""

    def find_verdict(self, comparison: Comparison) -> Verdict | None:
        """Return the verdict on two contents; None if none is stored."""

    def get_findings(self, verdict: Verdict) -> Promotion:
        """Return what a stored verdict found: a message with findings and their counts, and nothing else.

        If it was removed since it was found, the closure is run again.
        """

    def list_head_apis(
        self, branch_key: int, period: PolicyPeriod, candidate: HeadApi, rules: int, most: int
    ) -> list[HeadApi]:
        """Return the Model APIs that were recorded of a branch in a period, the newest first, and so many at most.

        Their verdicts are on the content of the candidate or, if its Model API is recorded, on the content of that
        version.
        """

    def unused_verdicts(self, age: timedelta) -> list[int]:
        """Return the keys of the verdicts that are older than this, and that no promotion cites."""

    def get_model_api(self, content_digest: bytes) -> ModelApi:
        """Return the Model API of a content, which must be stored."""

    def find_request(self, key: RequestKey) -> RequestRecord | None:
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
        promotions would not fit into one message. Raises InvalidPageToken for what is no position; one that was made up
        may be taken for any place.
        """

    def list_promotions_in_order(
        self, caller: Caller, wanted: PromotionFilter, settled: LogEnd, page: PageRequest
    ) -> Page[Promotion]:
        """Return promotions as list_promotions does, but by their keys, from the oldest to the `settled` one.

        Within a branch that is the order of version numbers. There is always a position behind the page: of the last
        one, it is that of the settled promotion, behind which later ones are found at any time. No two positions are
        alike. Raises InvalidPageToken for what is no position, and for one behind a promotion that is not there now.
        Raises StorageUnavailable as `require_event` does, if it is the settled one that is not there.
        """

    def get_lineage(self, model_version_rid: str, caller: Caller, page: PageRequest) -> Lineage:
        """Return a version, its predecessors, nearest first, and all its descendants, in preorder.

        Those that were promoted from the same version are in the order of their times. Of what the caller may not see,
        only node_id, previous_node_id and depth are set. A version that is stored while pages are read may be missing;
        all others are there once, each descendant behind the one that it was promoted from. A page is short where its
        nodes would not fit into one message, and may be empty where it is far to the next one, or to the end. Of a
        circle, which only an import can make, versions may be told again, and with several depths. Raises
        ModelVersionNotFound if the version is absent or the caller may not see its model, and InvalidPageToken for what
        is no position in this lineage.
        """

    def find_yank(self, yank_rid: str, caller: Caller) -> Yank | None:
        """Return a yank; None if it is absent or the caller may not see the model of its version."""

    def list_yanks(self, model_version_rid: str, caller: Caller, page: PageRequest) -> Page[Yank]:
        """Return the yanks of versions of the same root as this one, those that the caller may see, newest first.

        The position is opaque. Those that others add meanwhile neither shift nor repeat an item of a later page. A page
        ends early, but never empty, where its yanks would not fit into one message. Raises ModelVersionNotFound and
        InvalidPageToken as get_lineage does.
        """

    def list_live_copies(self, model_version_rid: str, caller: Caller, page: PageRequest) -> LiveCopies:
        """Return the branches, of models that the caller may see, whose head is this version or was promoted from it.

        They are in the order in which they were stored. The position is opaque. A page ends early, but never empty,
        where its branches would not fit into one message. Raises ModelVersionNotFound and InvalidPageToken as
        get_lineage does.
        """

    def authors_of(self, model_version_rid: str) -> frozenset[str]:
        """Return who created or promoted a version, and the thousand that it came from, and who created its root.

        Of what is not stored, nobody is told.
        """

    def find_promotion_request(self, promotion_request_rid: str, caller: Caller) -> StoredRequest | None:
        """Return a request; None if it is absent, or the caller may not see its target model.

        If it is for the policy of a folder, the caller needs a role on that. Of its reviews the newest hundred are
        told.
        """

    def find_open_request(self, model_rid: str, branch: str, source_rid: str) -> PromotionRequest | None:
        """Return the request for the promotion of a version into a branch that was not closed; None if there is none.

        Of its reviews the newest hundred are told.
        """

    def find_open_change(self, change: PolicyChange) -> PromotionRequest | None:
        """Return the request for this very change of a policy that was not closed; None if there is none.

        Of its reviews the newest hundred are told.
        """

    def list_promotion_requests(
        self, caller: Caller, wanted: PromotionRequestFilter, page: PageRequest
    ) -> Page[StoredRequest]:
        """Return the requests that find_promotion_request would find for the caller, newest first.

        Each is told as in find_promotion_request, but for the comments of reviews. The position is opaque. Requests
        that others add meanwhile neither shift nor repeat an item of a later page. Raises InvalidPageToken for what is
        no position; one that was made up may be taken for any place.
        """

    def clock_ms(self) -> int:
        """Return the time that would be stored now, in ms since the epoch: never before what was stored."""

    def get_policy(self, resource_rid: str, branch: str) -> BranchPolicy:
        """Return the newest policy of a model's branch, or of a folder for the branches of a name.

        If none was set, it is revision 0, and has no rules: COMPATIBILITY_MODE_WARN for a model's branch.
        """

    def list_policies(self, resource_rid: str, branch: str, page: PageRequest) -> Page[BranchPolicy]:
        """Return a page of the policies that were set on a model's branch, or on a folder for the branches of a name.

        The newest comes first; positions are revisions. A page ends early, but never empty, where its policies would
        not fit into one message.
        """

    def list_events(
        self, caller: Caller, wanted: EventFilter, keys: range, page: PageRequest, *, newest_first: bool
    ) -> Page[KeptEvent]:
        """Return a page of the events that the caller may see now, by their keys, of which none is outside the range.

        As large a page as fits into one message. Raises ModelNotFound if the model that is wanted is not visible.
        """

    def event_key(self, cursor: str) -> int:
        """Return the key of the event that a cursor was made for; 0 for the place before all.

        Raises CursorUnknown if that is not the event which has this key now, and CursorExpired if any behind it was
        removed.
        """

    def event_further_on(self, after: int, settled: LogEnd, count: int) -> LogEnd:
        """Return the event so many behind a key, or the settled one if there are no more up to that."""

    def event_cursor(self, key: int) -> str:
        """Return a cursor for the event of a key, or for 0. No two are alike."""

    def require_event(self, end: LogEnd) -> None:
        """Return if the event is there, or was until it was removed. Raises StorageUnavailable.

        Another database has told of it than the one that is read: one that has lost it since, or lags behind.
        """

    def grantees(self, resource_rids: Collection[str]) -> dict[str, Grantees]:
        """Return who has a role on each of these models and folders, by RID. A model that is not stored is left out."""

    def find_event(self, key: int, caller: Caller) -> KeptEvent | None:
        """Return the event of a key; None if there is none, or if the caller may not see it now."""

    def find_subscription(self, subscription_rid: str) -> Subscription | None:
        """Return a subscription, whoever may see it; None if there is none."""

    def list_subscriptions(self, resource_rid: str, page: PageRequest) -> Page[Subscription]:
        """Return the subscriptions of this very RID, newest first; the position is opaque.

        Raises InvalidPageToken for what is no position; one that was made up may be taken for any place.
        """

    def count_subscriptions(self, resource_rid: str, created_by: str) -> tuple[int, int]:
        """Return how many subscriptions there are of this very RID, and how many that this principal has made."""

    def list_deliveries(
        self, subscription_rid: str, state: DeliveryState.ValueType | None, page: PageRequest
    ) -> Page[Delivery]:
        """Return the deliveries of a subscription in a state, or in any: those of the newest events come first.

        A page ends early, but never empty, where it would not fit into one message. The position is opaque. Raises
        InvalidPageToken for what is no position; one that was made up may be taken for any place.
        """

    def delivery_work(self) -> DeliveryWork:
        """Return whether there is something to do for subscriptions."""

    def get_role(self, resource_rid: str, caller: Caller) -> Role.ValueType:
        """Return the caller's highest role among the grants on this very RID; ROLE_UNSPECIFIED if there is none.

        An administrator owns everything.
        """

    def get_folder_policy(self, folder_rid: str) -> FolderPolicy:
        """Return the newest policy of a folder; NEW_MODEL_OWNER_CREATOR and nothing else if it has none."""

    def list_disabled_principals(self, page: PageRequest) -> Page[DisabledPrincipal]:
        """Return the principals that are disabled, in the order of code points."""

    def is_disabled(self, principal: str) -> bool:
        """Return whether a principal is disabled."""

    def owners(self, resource_rid: str) -> list[str]:
        """Return the principals that own this very RID, by name."""

    def list_grants(self, resource_rid: str, page: PageRequest) -> Page[Grant]:
        """Return the grants on this very RID, by principal, in the order of code points."""

    def list_grant_changes(self, resource_rid: str, page: PageRequest) -> Page[GrantChange]:
        """Return the changes of the grants on this very RID, newest first.

        The position is opaque. Changes that are made meanwhile neither shift nor repeat an item of a later page. Raises
        InvalidPageToken for what is no position; one that was made up may be taken for any place.
        """

    def find_file(self, content_digest: bytes) -> StoredFile | None:
        """Return the model files of a content; None if it has none."""

    def get_file_uses(self, upload: UploadKey) -> tuple[FileUse, FileUse]:
        """Return what counts for the principal of an upload, and what counts for the folder of its model.

        The model must be stored.
        """

    def some_files(self, count: int) -> list[StoredFile]:
        """Return as many files, whichever; fewer if there are no more."""

    def unnamed_files(self) -> list[bytes]:
        """Return the digests of the files that neither a content nor an upload names."""

    def known_objects(self, object_names: Collection[str]) -> set[str]:
        """Return those of the objects, a thousand at most, that hold files, or whose upload is not complete."""

    def registry_id(self) -> str:
        """Return what tells this registry from others, the same for as long as its storage lives."""


class Transaction(Reader, Protocol):
    """Changes, all of which happen or none. What a transaction reads includes what it wrote.

    What changes something that callers see writes an event of it, exactly one for each thing: models, versions,
    promotions, yanks, policies, requests and their reviews, grants, principals. Its actor is who the change says that
    made it, its time that of the change, or now if it was imported.
    """

    def add_model(self, model: Model) -> Model:
        """Store a model and return it, with `created_time` now if it had none.

        Raises ResourceNameAlreadyExists if its folder holds a model of that name.
        """

    def put_content(self, version: ModelVersion, file_digest: bytes | None = None) -> bytes:
        """Store the content of a version and return its digest; equal content is stored once.

        Content is the Model API, conda requirements, backing repositories and linked experiment, without unknown
        fields, and the model files, which must be stored. Raises RequestTooLarge if a version with this content might
        not fit into one message.
        """

    def append_version(
        self,
        version: ModelVersion,
        content_digest: bytes,
        legacy_source: str | None = None,
        branch: BranchEnd | None = None,
    ) -> ModelVersion:
        """Store a version as the new head of its branch and return it, complete.

        `branch` is where the branch goes on, if that is known; it must be locked then, or new. `version_number` becomes
        the previous head's plus one, `created_time` now, but never before the previous head's; a `created_time` that is
        already set is kept, as that of a version that is imported now. Transactions that extend one branch wait for
        each other here at the latest, and one whose `branch` another has extended meanwhile is run again. Nothing of
        the content is stored again, whatever its size.
        """

    def append_promoted(
        self,
        version: ModelVersion,
        content_digest: bytes,
        promotion: Promotion,
        verdict: Verdict | None,
        branch: BranchEnd | None = None,
        *,
        was_imported: bool = False,
    ) -> Promoted:
        """Store a version as append_version does, with the record of the promotion that makes it, and return it.

        The version says who made it and when; the record, which needs no more than its RID, kind, source and reason, is
        chained to the one before on the branch. Its source need not be stored where it was imported.
        """

    def lock_branches(self, branch_names: Collection[tuple[str, str]], caller: Caller, role: Role.ValueType) -> None:
        """Make other transactions that would extend these branches wait until this one ends, and wait for theirs.

        Branches are named by the RID of their model and their name. None is locked in whose model the caller has not
        this role. One that does not exist is made if there are several and the backend locks rows, and it has no
        version then; alone, it is not locked. However the branches are ordered, transactions that lock several do not
        deadlock.

        What the transaction reads from now on it decides on, whether a branch was locked or not: `Repository.settle`
        waits for it, but not as long as it waits here itself.
        """

    def add_verdict(self, comparison: Comparison, findings: Promotion) -> Verdict:
        """Store what a comparison found: the findings and their counts, which are all of the message that is set."""

    def add_head_api(self, model_rid: str, branch: str, period: PolicyPeriod, api: HeadApi) -> None:
        """Record the Model API of a version of a branch, which must be stored; nothing if that version's is."""

    def remove_unused_verdict(self, key: int) -> bool:
        """Remove a verdict unless a promotion cites it, and return whether it was there to be removed.

        One that is about to cite it is waited for; or it is run again, and finds none.
        """

    def claim_request(self, key: RequestKey, request: RequestRecord) -> RequestRecord | None:
        """Record a request with what it is about to make; or return the one that was carried out under the key.

        Transactions that claim one key wait for each other here. What was returned lasts once the transaction has
        committed, even if the COMMIT that carried it out was interrupted.
        """

    def add_yank(self, yank: Yank) -> Yank:
        """Record a yank of a version, which must be stored, and return it with `yanked_time` now.

        While it holds, the version and all that was promoted from it are yanked; of YANK_SCOPE_LINEAGE, all that has
        the same root. Also a version that has more ancestors than storage walks counts as yanked, if anything of its
        root is.
        """

    def take_yank_back(self, yank: Yank, reason: str | None, unyanked_by: str) -> None:
        """Record that a yank, which must be stored, holds no longer; nothing if that was recorded before."""

    def add_promotion_request(self, request: PromotionRequest) -> PromotionRequest:
        """Store a request, which is open, and return it. The model must be stored, if it is not for a folder's policy.

        Of several transactions that store one for the same source, target and branch, or for the same change, one
        commits; the others are run again.
        """

    def lock_promotion_request(self, promotion_request_rid: str) -> None:
        """Make other transactions that lock or close this request wait until this one ends, and wait for theirs.

        One that is closed is not locked.
        """

    def add_review(self, request: PromotionRequest, review: PromotionReview) -> None:
        """Record a review of a request, which must be stored, with `created_time` now."""

    def close_promotion_request(
        self,
        request: PromotionRequest,
        state: PromotionRequestState.ValueType,
        closed_by: str | None,
        promotion_rid: str | None = None,
        version_rid: str | None = None,
        made_revision: int | None = None,
    ) -> None:
        """Record what has become of a request, which must be stored, once for all, with what came of it.

        Of several transactions that close the same one, one commits; the others are run again.
        """

    def add_policy(self, policy: BranchPolicy, changed_by: str, change: EventType | None = None) -> BranchPolicy:
        """Record a policy of a model's branch or of a folder, by whom and when, and return it. Earlier ones stay.

        `change` is what its event says that happened, if that is more than that the policy was changed.

        The model must be stored. Of several transactions that record the same revision for the same branch, one
        commits; the others are run again.
        """

    def set_grant(self, grant: Grant, changed_by: str) -> None:
        """Give a principal a role on a resource in place of any other, and record who did so and when."""

    def remove_grant(self, resource_rid: str, principal: str, changed_by: str) -> None:
        """Take a principal's role on a resource away, and record who did so and when; nothing if there is none."""

    def add_folder_policy(
        self, folder_rid: str, new_model_owner: NewModelOwner.ValueType, changed_by: str
    ) -> FolderPolicy:
        """Record a policy of a folder, by whom and when, and return it. Earlier ones stay."""

    def disable_principal(self, principal: str, reason: str, changed_by: str) -> DisabledPrincipal:
        """Record that a principal is disabled, by whom, when and why, and return that. What was before stays."""

    def enable_principal(self, principal: str, changed_by: str) -> None:
        """Record that a principal is enabled, by whom and when."""

    def lock_subscriptions(self, resource_rid: str, created_by: str) -> None:
        """Make others that lock those of this RID or principal wait until this one ends, and wait for theirs.

        It is for transactions that count subscriptions before they add one.
        """

    def add_subscription(self, subscription: Subscription, secret: bytes) -> Subscription:
        """Store a subscription with its secret, encrypted, and return it with `created_time` now.

        Events that are committed before are not queued for it; those whose transactions begin to decide once this one
        is committed are.
        """

    def lock_subscription(self, subscription_rid: str) -> None:
        """Make others that change this subscription or its queue wait until this one ends, and wait for theirs.

        One that is deleted is not locked.
        """

    def change_subscription(self, subscription: Subscription, changed_by: str) -> Subscription:
        """Store what a subscription, which must be locked, is now, and return it with `changed_time` now.

        Of one that was not active and is, or has another URL, what is queued starts anew, as if it had been queued now.
        One that was disabled gets what happens from now on.
        """

    def set_secret(
        self, subscription: Subscription, secret: bytes, previous_lifetime: timedelta | None, changed_by: str
    ) -> Subscription:
        """Give a subscription, which must be locked, a new secret, encrypted, and return it with `changed_time` now.

        The one before is kept for so long; None if it is not.
        """

    def remove_subscription(self, subscription: Subscription, removed_by: str) -> None:
        """Forget a subscription, which must be locked, and its deliveries."""

    def fan_out_events(self, settled: int, count: int) -> bool:
        """Queue events up to the settled one for the subscriptions that let them through, in order and each once.

        It goes on from where the last one ended, through `count` events at most, and returns whether there are more. Of
        several transactions, one does so, and the others do nothing.
        """

    def lease_queues(self, count: int, lifetime: timedelta) -> list[QueueLease]:
        """Lease queues that are due and that nobody has leased, `count` at most, those that are due longest first."""

    def next_delivery(self, lease: QueueLease) -> QueuedDelivery | None:
        """Return the delivery of a leased queue whose event is the oldest of those that are due.

        While its receiver fails, one that was not tried yet comes before all others: it may be these that are refused.
        None if none is, or the subscription is not active: then the lease is given back. None, too, if the lease was
        lost. The queue is locked until the transaction ends.
        """

    def begin_attempt(self, lease: QueueLease, delivery: QueuedDelivery, lifetime: timedelta) -> QueuedDelivery:
        """Record that a delivery is tried now, and return it so; the lease goes on for so long."""

    def drop_delivery(self, delivery: QueuedDelivery, why: str) -> None:
        """Record that a delivery is not sent."""

    def end_attempt(
        self,
        lease: QueueLease,
        delivery: QueuedDelivery,
        end: AttemptEnd,
        state: DeliveryState.ValueType,
        next_time_ms: int | None = None,
    ) -> None:
        """Record how an attempt ended, and what has become of the delivery; nothing if another one has begun since.

        The queue, if it is leased still, is locked until the transaction ends. One that is delivered shows that its
        receiver is not failing.
        """

    def failing_since(self, lease: QueueLease) -> int:
        """Return since when the receiver of a leased queue has failed, in ms since the epoch; now, if it did not."""

    def hold_back(self, lease: QueueLease, until_ms: int, queued_before_ms: int, why: str) -> None:
        """Give a lease back, and let the queue be due again at this time; its receiver is failing.

        Deliveries that wait, and were queued before the other time, are dead.
        """

    def give_back(self, lease: QueueLease) -> None:
        """Give a lease back, and let the queue be due at once."""

    def requeue(self, subscription_rid: str, event_ids: Collection[str]) -> list[str]:
        """Queue events again by their ids, and return those that have no delivery to this subscription.

        The subscription must be locked.
        """

    def requeue_behind(self, subscription_rid: str, keys: range, count: int) -> Requeued:
        """Queue the events with these keys that a subscription lets through; it looks at `count` of them at most.

        The subscription must be locked.
        """

    def remove_old_deliveries(self, age: timedelta, count: int) -> int:
        """Forget deliveries that were queued so long ago and do not wait, `count` at most, and return how many."""

    def lock_owners(self, resource_rid: str) -> None:
        """Make other transactions that lock the owners of this RID wait until this one ends, and wait for theirs."""

    def begin_upload(self, upload: UploadKey, object_name: str, lifetime: timedelta) -> None:
        """Record that an object is about to be written, by an upload of this lifetime. The model must be stored."""

    def finish_upload(self, upload: UploadKey, file: StoredFile, quota: FileQuota = NO_QUOTA) -> str:
        """Record that the object of an upload is complete, and return the object that holds such files.

        Its bytes count from now on, whether such files are stored already or not. Raises QuotaExceeded if that would be
        more than the quota for the principal or for the folder, however many uploads are finished at once.

        The object that is returned is that of the files that are stored under this digest already, if there are any:
        the new one is then of no use. Raises StorageUnavailable if the upload was forgotten meanwhile.
        """

    def keep_upload(self, upload: UploadKey, lifetime: timedelta) -> Timestamp:
        """Let an upload be found for so long from now on, and return until when. It must be stored."""

    def replace_object(self, file: StoredFile, lost_object: str) -> None:
        """Let files be held by another object; nothing if they are not held by the lost one any more."""

    def give_up_upload(self, upload: UploadKey) -> None:
        """Forget an upload, if there is one."""

    def find_upload(self, upload: UploadKey) -> bytes | None:
        """Return the digest of the files of a complete upload; None if there is none, or if its lifetime is over.

        The files stay as long as this transaction lasts, and their bytes count beyond the lifetime of the upload.
        """

    def remove_expired_uploads(self, holder: str | None = None) -> int:
        """Forget the uploads whose lifetime is over, complete or not, and return how many these were.

        With a holder, a principal or a folder, a few that are of that principal or for its models, and first those that
        give most back. The bytes of those that were never found count no longer.
        """

    def remove_unnamed_file(self, digest: bytes) -> StoredFile | None:
        """Forget files that neither a content nor an upload names, and return them; None if one does meanwhile.

        A transaction that is about to name them waits for this one, or is waited for.
        """

    def remove_old_events(self, age: timedelta, most: int) -> int:
        """Remove the events with the smallest keys that are older than this, so many at most, and return how many.

        It ends before the first one that is not older, and before the newest of all. From then on, event_key knows a
        cursor for an event before the last of these as expired. Transactions that store or read events do not wait for
        this one.
        """


class KeptContent(NamedTuple):
    """A content as it is stored: `size` is how many bytes it shall have, `has_file` whether its files are known."""

    digest: bytes
    payload: bytes
    size: int
    file_digest: bytes | None
    has_file: bool


class KeptBranch(NamedTuple):
    """A branch, what it counts, and the hash of the promotion that was chained last."""

    key: int
    model_rid: str
    name: str
    version_count: int
    chain: bytes | None


class KeptPromotion(NamedTuple):
    """The record of a promotion, with its place in the chain if it has one, and what it was decided under.

    `was_imported` is None if nothing tells. `closed_its_request` is whether the request that it cites is stored, and
    was closed by it.
    """

    rid: str
    kind: int
    model_rid: str
    source_model_rid: str
    source_rid: str
    reason: str | None
    created_ms: int
    created_by: str
    previous_hash: bytes | None
    hash: bytes | None
    was_imported: bool | None
    policy_revision: int | None
    folder_policy_revision: int | None
    promotion_request_rid: str | None
    override: bool | None
    closed_its_request: bool


class KeptVersion(NamedTuple):
    """A version, its promotion if there is a record of one, and what that came from if it is stored.

    `source` is a serialized ModelVersionSource; `source_root_rid` and `source_digest` are of the version that the
    promotion names.
    """

    branch_key: int
    rid: str
    number: int
    content_digest: bytes
    has_content: bool
    source: bytes | None
    root_rid: str
    created_ms: int
    created_by: str
    promotion: KeptPromotion | None
    source_root_rid: str | None
    source_digest: bytes | None


class KeptGrant(NamedTuple):
    """The role that a principal has on a resource, and the one that the newest change says; None is no role."""

    resource_rid: str
    principal: str
    role: int | None
    recorded_role: int | None


class KeptUpload(NamedTuple):
    """A complete upload: the SHA-256 of its id, in hexadecimal, and whether its model and its files are known."""

    id_digest: str
    has_model: bool
    has_file: bool


class KeptRequest(NamedTuple):
    """A request that was carried out by a promotion: what that is called, and whether its record cites the request."""

    rid: str
    promotion_rid: str
    is_cited: bool


class LoggedEvent(NamedTuple):
    """An event as it is stored: its key, the number of its type, and when it happened, in ms since the epoch.

    `told` is what it tells that has no column, None if that cannot be read; `has_model` is False if it is about a model
    that is not stored. `promotion_key` is the key of the promotion that made the version which it is about, if that is
    stored.
    """

    key: int
    type: int
    created_ms: int
    told: Event | None
    has_model: bool
    promotion_key: int | None


class ToldPromotion(NamedTuple):
    """A promotion that an event may tell of: its key, the RID of its version, and when it was stored or imported."""

    key: int
    version_rid: str
    stored_ms: int


class Inventory(Protocol):
    """All that a registry keeps, as of one moment, whatever is changed meanwhile.

    Each answer is read in pages as it is used, and takes no memory that grows with the registry.
    """

    def contents(self) -> Iterator[KeptContent]:
        """Return all contents."""

    def branches(self) -> Iterator[KeptBranch]:
        """Return all branches, by key."""

    def versions(self) -> Iterator[KeptVersion]:
        """Return all versions, by the key of their branch and by number."""

    def requests(self) -> Iterator[KeptRequest]:
        """Return the requests for promotion that were carried out."""

    def grants(self) -> Iterator[KeptGrant]:
        """Return what each principal has, or had, on each resource."""

    def uploads(self) -> Iterator[KeptUpload]:
        """Return the uploads that are complete."""

    def events(self) -> Iterator[LoggedEvent]:
        """Return all events that are kept, by key."""

    def promotions(self) -> Iterator[ToldPromotion]:
        """Return all promotions whose versions are stored, by key."""

    def files(self) -> Iterator[StoredFile]:
        """Return all files."""

    def current_file(self, digest: bytes) -> StoredFile | None:
        """Return files by their digest, as of now and not of that moment; None if they were removed since."""

    def registry_id(self) -> str:
        """Return what `Reader.registry_id` returns."""


class ConnectionUse(NamedTuple):
    """How many connections to the storage serve a call, how many are kept for the next, and how many may be open."""

    in_use: int
    idle: int
    limit: int


class Repository(Protocol):
    """Runs closures over the storage."""

    def read(self, query: Callable[[Reader], T]) -> T:
        """Run a query; each of its questions sees the newest committed state."""

    def read_recent(self, query: Callable[[Reader], T]) -> T:
        """Run a query that a standby may answer, if there is one, and it lags no longer than it may.

        It sees all that the caller of the current call has changed through this repository, and all up to the position
        that the call brings (`server.core.freshness`). A standby is not why it raises anything: then the newest
        committed state is asked, as `read` does.
        """

    def write(
        self,
        change: Callable[[Transaction], T],
        *,
        repeatable: bool = False,
        branch: tuple[str, str] | None = None,
        may_use_reserve: bool = False,
        settles: bool = False,
    ) -> T:
        """Run a change in one transaction: commit when it returns, roll back when it raises.

        `branch` is the RID of a model and the name of the branch in it that the change locks, if that is all it locks:
        changes that wait for one branch share a transaction, in which each happens or not as it would alone.

        The change is run again after a conflict or a lost connection, so it has no effects of its own. A COMMIT whose
        outcome is unknown raises StorageUnavailable, unless the change is repeatable, that is, notices itself that it
        was carried out before: then it is run again too.

        Where the disk of the database is full, a change that `may_use_reserve` has a reserve given up for it: one that
        takes something away or makes room, and must not wait. As long as that is given up, all others raise
        StorageUnavailable. A database that is no file of this machine has no reserve.

        A change that `settles` is one of what others decide on, and decides itself on what others change so. Once it is
        committed, it waits as `settle` does, and what it has changed stays changed whatever that raises.
        """

    def settle(self) -> None:
        """Return when nothing can be committed any more that was decided without what is committed by now.

        So it waits until each transaction has ended that is deciding at this moment: one that has called
        `lock_branches`, or whose change settles. None waits for it, be it to decide or to commit, nor does a
        transaction that begins to decide meanwhile hold it up. Raises StorageUnavailable, without a hint to try again.
        """

    def settled_event(self) -> LogEnd:
        """Return the newest event for which all events with smaller keys can be read. Raises StorageUnavailable.

        Each event that was committed before the call is one of them. So it waits as `settle` does. A standby does not
        know what is being decided at its primary, and answers this only while nothing new has come.
        """

    def settled_promotion(self) -> LogEnd:
        """Return of promotions what `settled_event` returns of events."""

    def settled_event_by_now(self) -> LogEnd:
        """Return such an event as `settled_event` does, without waiting for what is being decided.

        So it can be one that was the newest some time ago. Whoever asks again and again comes to each event: it is told
        as soon as all transactions have ended that were deciding when an earlier call has found it.
        """

    def disabled_principals(self) -> frozenset[str]:
        """Return all principals that are disabled. Raises StorageUnavailable."""

    def ping(self) -> None:
        """Return if the storage answers. Raises StorageUnavailable.

        What this repository writes down from now on is not timed before the newest promotion that was stored by then,
        unless that was timed more than a day ahead. Nor is it ever before what it wrote down itself.
        """

    def require_writable(self) -> None:
        """Return if the storage can be written, if it is a file of this machine; of another it is not asked.

        It is tried every few seconds, however often it is asked for, and the reserve is taken back when there is room.
        Raises StorageUnavailable.
        """

    def connections(self) -> ConnectionUse:
        """Return how the connections are used at the moment. Raises nothing, and does not wait."""

    def standby_seen_at(self) -> float | None:
        """Return when the standby that `read_recent` asks was last known to be as far as the primary; None without one.

        By `time.monotonic`; at first, when it was not asked yet, that is when this repository was opened.
        """

    def close(self) -> None:
        """Give up every connection."""
