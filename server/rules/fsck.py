"""Whether what a registry keeps is whole: every check that needs no caller, over one moment of the storage.

Nothing is changed. What memory it takes does not grow with the registry.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError

from modelregistry.v1.access_service_pb2 import Role
from modelregistry.v1.model_pb2 import ModelVersionSource, PromotedSource
from server.core.errors import StorageUnavailable
from server.core.event_types import EventType
from server.core.integrity import BEGINNING, ChainedRecord, chain_hash, content_digest
from server.storage.blobs import FileStore
from server.storage.contract import (
    Inventory,
    KeptBranch,
    KeptContent,
    KeptGrant,
    KeptPromotion,
    KeptVersion,
    LoggedEvent,
    StoredFile,
)

_T = TypeVar("_T")

# What comes behind the last branch that has versions.
_NO_GROUP: tuple[int | None, Iterable[KeptVersion]] = (None, ())

_RESTORE = "restore it from a backup"
# What to do, by the check that found the fault.
REMEDIES = {
    "content": f"{_RESTORE}: no version that has it is served",
    "head": "find out who changed the database by other means than the service, and restore it from a backup",
    "number": f"versions were removed or added by other means than the service: {_RESTORE}",
    "record": f"who promoted what cannot be relied on here: {_RESTORE}",
    "chain": f"a record was changed, added or removed by other means than the service: {_RESTORE}",
    "unchained": "run `modelregistry migrate`, once no server of an earlier release is left",
    "lineage": f"a version that this one came from was changed or removed: {_RESTORE}",
    "request": f"what was approved cannot be relied on here: {_RESTORE}",
    "grant": "set the role that is right with `modelregistry grant` or `revoke`, and find out who changed the database",
    "file": f"{_RESTORE}, or see --files-url: the versions that have it cannot be downloaded",
    "upload": "upload the files once more",
    "event": f"who goes by events was told something else: what holds is in the other tables; {_RESTORE}",
}

_EVENT_TYPES = frozenset(map(int, EventType))
_OF_PROMOTIONS = frozenset(map(int, (EventType.VERSION_PROMOTED, EventType.BRANCH_ROLLED_BACK)))
# From how long behind the oldest event that is kept on each promotion has one: what was side by side with others may
# have lost its own to `gc`, and servers of a release without events serve for a while beside those of the next.
EVENTS_SETTLE_MS = 24 * 3_600_000


class Fault(NamedTuple):
    """Something that is not whole: the check that found it, the RID or digest of what it is, and what is wrong."""

    check: str
    subject: str
    problem: str

    @property
    def remedy(self) -> str:
        """What to do."""
        return REMEDIES[self.check]


class Examination:
    """The checks of one registry. `counted` is how many of each thing they have looked at."""

    def __init__(self, inventory: Inventory, files: FileStore | None):
        """`files` are not looked at if they are None."""
        self._inventory = inventory
        self._files = files
        self.counted: Counter[str] = Counter()
        self._ends = hashlib.sha256()

    @property
    def chains_digest(self) -> str:
        """The SHA-256 of the chains' ends, in hexadecimal, once all faults were asked for.

        Where it was kept elsewhere, it tells of a copy whether its promotions are the same.
        """
        return self._ends.hexdigest()

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong. Raises StorageUnavailable."""
        for content in self._counting("contents", self._inventory.contents()):
            yield from _of_content(content)
        yield from self._of_branches()
        for request in self._counting("requests", self._inventory.requests()):
            if not request.is_cited:
                problem = f"{request.promotion_rid}, by which it was carried out, is gone, or does not cite it"
                yield Fault("request", request.rid, problem)
        for grant in self._counting("grants", self._inventory.grants()):
            yield from _of_grant(grant)
        for upload in self._counting("uploads", self._inventory.uploads()):
            if not upload.has_model or not upload.has_file:
                lost = "files" if upload.has_model else "model"
                yield Fault("upload", upload.id_digest, f"its {lost} cannot be found in the database")
        yield from self._of_events()
        if self._files is not None:
            for file in self._counting("files", self._inventory.files()):
                yield from self._of_file(file, self._files)

    def _counting(self, name: str, things: Iterable[_T]) -> Iterator[_T]:
        for thing in things:
            self.counted[name] += 1
            yield thing

    def _of_branches(self) -> Iterator[Fault]:
        """Yield what is wrong with branches and their versions, both of which come in the order of branches."""
        groups = itertools.groupby(self._inventory.versions(), lambda version: version.branch_key)
        key, versions = next(groups, _NO_GROUP)
        for branch in self._counting("branches", self._inventory.branches()):
            while key is not None and key < branch.key:
                yield from _without_branch(versions)
                key, versions = next(groups, _NO_GROUP)
            if key == branch.key:
                yield from self._of_branch(branch, versions)
                key, versions = next(groups, _NO_GROUP)
            else:
                yield from self._of_branch(branch, ())
        while key is not None:
            yield from _without_branch(versions)
            key, versions = next(groups, _NO_GROUP)

    def _of_branch(self, branch: KeptBranch, versions: Iterable[KeptVersion]) -> Iterator[Fault]:
        chain, number, name = _Chain(branch), 0, f"branch {branch.name!r}"
        if not branch.model_rid:
            yield Fault("record", str(branch.key), f"{name} belongs to no model")
        for version in self._counting("versions", versions):
            if version.number != number + 1:
                yield Fault("number", version.rid, f"it has number {version.number} on {name}, behind {number}")
            number = version.number
            yield from _of_version(version, branch, chain)
            self.counted["promotions"] += version.promotion is not None
        if branch.version_count != number:
            problem = f"{name} counts {branch.version_count} versions, and the newest one has number {number}"
            yield Fault("head", branch.model_rid, problem)
        yield from chain.broken()
        if branch.chain is not None:
            self._ends.update(branch.chain)

    def _of_events(self) -> Iterator[Fault]:
        """Yield what is wrong with events, and which promotions have none.

        Both come in the order in which they were stored, but for what was side by side: only that is remembered.
        """
        promotions = self._inventory.promotions()
        passed, since_ms = 0, None
        # Of promotions that have come, and whose events have not: the RIDs of their versions.
        awaited: dict[int, str] = {}
        for event in self._counting("events", self._inventory.events()):
            yield from _of_event(event)
            since_ms = event.created_ms + EVENTS_SETTLE_MS if since_ms is None else since_ms
            if event.type not in _OF_PROMOTIONS or event.promotion_key is None:
                continue
            while passed < event.promotion_key:
                promotion = next(promotions)
                passed = promotion.key
                if promotion.stored_ms >= since_ms:
                    awaited[promotion.key] = promotion.version_rid
            awaited.pop(event.promotion_key, None)
        if since_ms is not None:
            awaited |= {each.key: each.version_rid for each in promotions if each.stored_ms >= since_ms}
        for version_rid in awaited.values():
            yield Fault("event", version_rid, "no event tells of the promotion that made it")

    def _of_file(self, file: StoredFile, store: FileStore) -> Iterator[Fault]:
        problem = _problem_of_object(file, store)
        if problem is None:
            return
        # Servers and `gc` go on meanwhile, and may have replaced or removed what was there at that moment.
        now = self._inventory.current_file(file.digest)
        if now is None or (now != file and _problem_of_object(now, store) is None):
            return
        yield Fault("file", file.digest.hex(), f"the object {file.object_name} {problem}")


def _of_content(content: KeptContent) -> Iterator[Fault]:
    name = content.digest.hex()
    if content_digest(content.payload, content.file_digest) != content.digest:
        yield Fault("content", name, "it does not fit its digest")
    elif content.size != len(content.payload):
        yield Fault("content", name, f"it has {len(content.payload)} bytes, and not {content.size}")
    elif content.file_digest is not None and not content.has_file:
        yield Fault("content", name, f"its files, {content.file_digest.hex()}, cannot be found in the database")


def _without_branch(versions: Iterable[KeptVersion]) -> Iterator[Fault]:
    for version in versions:
        yield Fault("number", version.rid, "it is on a branch that cannot be found in the database")


def _of_version(version: KeptVersion, branch: KeptBranch, chain: _Chain) -> Iterator[Fault]:
    if not version.has_content:
        yield Fault("content", version.content_digest.hex(), f"it cannot be found, and {version.rid} has it")
    try:
        source = ModelVersionSource.FromString(version.source or b"")
    except DecodeError:
        yield Fault("lineage", version.rid, "what it came from cannot be read")
        source = ModelVersionSource(promoted=_told_source(version.promotion))
    promotion = version.promotion
    if promotion is None:
        if source.HasField("promoted"):
            yield Fault("record", version.rid, "it was promoted, and there is no record of that")
        elif version.source is not None and version.root_rid != version.rid:
            yield Fault("lineage", version.rid, f"it was not promoted, and names {version.root_rid} as its root")
        return
    problem = _problem_of_record(promotion, version, branch, source)
    if problem is not None:
        yield Fault("record", promotion.rid, problem)
    else:
        yield from _of_lineage(promotion, version)
    yield from _of_request(promotion)
    yield from chain.add(promotion, version, is_record_known_to_be_wrong=problem is not None)


def _told_source(promotion: KeptPromotion | None) -> PromotedSource | None:
    """Return what a record says that its version came from."""
    if promotion is None:
        return None
    return PromotedSource(
        previous_model_rid=promotion.source_model_rid, previous_model_version_rid=promotion.source_rid
    )


def _problem_of_record(
    promotion: KeptPromotion, version: KeptVersion, branch: KeptBranch, source: ModelVersionSource
) -> str | None:
    """Return what of a record does not fit the version that it made."""
    for what, recorded, stored in (
        ("model", promotion.model_rid, branch.model_rid),
        ("time", promotion.created_ms, version.created_ms),
        ("creator", promotion.created_by, version.created_by),
        ("source", _told_source(promotion), source.promoted),
    ):
        if recorded != stored:
            return f"its {what} is not the one that its version {version.rid} has"
    return None


def _of_lineage(promotion: KeptPromotion, version: KeptVersion) -> Iterator[Fault]:
    # What was imported may have come from anywhere, and of what is older than the question nothing is known.
    if promotion.was_imported is not False:
        return
    if version.source_digest is None:
        yield Fault("lineage", version.rid, f"the version that it was promoted from, {promotion.source_rid}, is gone")
    elif version.source_digest != version.content_digest:
        yield Fault("lineage", version.rid, f"its content is not that of {promotion.source_rid}, which it came from")
    elif version.source_root_rid != version.root_rid:
        yield Fault("lineage", version.rid, f"its root is not that of {promotion.source_rid}, which it came from")


def _of_request(promotion: KeptPromotion) -> Iterator[Fault]:
    # What was imported may have been approved elsewhere.
    if promotion.promotion_request_rid is None or promotion.was_imported or promotion.closed_its_request:
        return
    problem = f"the request that it cites, {promotion.promotion_request_rid}, is gone, or was not closed by it"
    yield Fault("request", promotion.rid, problem)


class _Chain:
    """The chain of a branch, whose promotions come by number.

    That is the order of the chain, but for those that were chained later. Only what is out of order is remembered.
    """

    def __init__(self, branch: KeptBranch):
        self._branch = branch
        # Hashes that no promotion was chained to yet, and those that no promotion had yet; with its RID.
        self._open = {BEGINNING: ""}
        self._awaited: dict[bytes, str] = {}

    def add(
        self, promotion: KeptPromotion, version: KeptVersion, *, is_record_known_to_be_wrong: bool
    ) -> Iterator[Fault]:
        """Take the next promotion, and yield what is wrong with its place."""
        if promotion.hash is None or promotion.previous_hash is None:
            yield Fault("unchained", promotion.rid, "it is in no chain, which would show that it was altered")
            return
        record = _as_chained(promotion, version, self._branch)
        if chain_hash(promotion.previous_hash, record) != promotion.hash and not is_record_known_to_be_wrong:
            yield Fault("chain", promotion.rid, "its hash is not that of what it says")
        if promotion.previous_hash in self._open:
            del self._open[promotion.previous_hash]
        elif other := self._awaited.get(promotion.previous_hash):
            yield Fault("chain", promotion.rid, f"it is chained to the same as {other}")
        else:
            self._awaited[promotion.previous_hash] = promotion.rid
        if promotion.hash in self._awaited:
            del self._awaited[promotion.hash]
        else:
            self._open[promotion.hash] = promotion.rid

    def broken(self) -> Iterator[Fault]:
        """Yield where the chain is broken, once it has taken all promotions."""
        for rid in self._awaited.values():
            yield Fault("chain", rid, "what it is chained to is not there, or another promotion is chained to that")
        end = self._branch.chain or BEGINNING
        if self._open.pop(end, None) is None and not self._awaited:
            problem = f"branch {self._branch.name!r} says that its chain ends with {end.hex()}, and it does not"
            yield Fault("chain", self._branch.model_rid, problem)


def _as_chained(promotion: KeptPromotion, version: KeptVersion, branch: KeptBranch) -> ChainedRecord:
    return ChainedRecord(
        rid=promotion.rid,
        kind=promotion.kind,
        version_rid=version.rid,
        model_rid=branch.model_rid,
        branch=branch.name,
        version_number=version.number,
        source_model_rid=promotion.source_model_rid,
        source_rid=promotion.source_rid,
        content_digest=version.content_digest.hex(),
        reason=promotion.reason,
        created_ms=promotion.created_ms,
        created_by=promotion.created_by,
        policy_revision=promotion.policy_revision,
        folder_policy_revision=promotion.folder_policy_revision,
        promotion_request_rid=promotion.promotion_request_rid,
        override=promotion.override,
    )


def _of_event(event: LoggedEvent) -> Iterator[Fault]:
    if event.told is None:
        yield Fault("event", str(event.key), "what it tells cannot be read")
        return
    if event.type not in _EVENT_TYPES:
        yield Fault("event", event.told.id, f"its type is {event.type}, which there is not")
    if not event.has_model:
        yield Fault("event", event.told.id, "the model that it is about is gone")
    if event.type in _OF_PROMOTIONS and event.promotion_key is None:
        problem = f"the promotion that made {event.told.model_version_rid}, of which it tells, is gone"
        yield Fault("event", event.told.id, problem)


def _of_grant(grant: KeptGrant) -> Iterator[Fault]:
    if grant.role != grant.recorded_role:
        has, said = (_role_name(role) for role in (grant.role, grant.recorded_role))
        problem = f"{grant.principal} has {has} on it, and the newest record of a change says {said}"
        yield Fault("grant", grant.resource_rid, problem)


def _role_name(role: int | None) -> str:
    if role is None:
        return "no role"
    return Role.Name(role).removeprefix("ROLE_").lower() if role in Role.values() else f"role {role}"  # type: ignore[arg-type]


def _problem_of_object(file: StoredFile, store: FileStore) -> str | None:
    """Return what is wrong with the object of files. Raises StorageUnavailable if the store does not answer."""
    if not store.has(file.object_name, file.size):
        return f"is not there, or has not {file.size} bytes"
    digest = hashlib.sha256()
    try:
        with store.read(file.object_name) as parts:
            for part in parts:
                digest.update(part)
    except StorageUnavailable as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return "is not there"
        raise
    return None if digest.digest() == file.digest else "has other bytes"
