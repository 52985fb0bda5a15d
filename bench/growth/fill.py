"""Fills an empty database fast, with rows such as years of use leave there.

A registry of size N holds N versions in branches of 100, half of them registered and half promoted from the other half;
N promotions of one version into one deep branch; a chain of N / 10 versions, each promoted to be the next one, and then
elsewhere; a branch that was rolled back N / 5 times, each time to the version before the last, so that it has two
chains; a branch with N versions that holds to the Model APIs of all its heads, of which there are some; a model with
N / 100 branches; and a request id and a request for promotion for every tenth version. Keys are counted here as the
database will count them.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import sqlite3
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    LargeBinary,
    bindparam,
    case,
    create_engine,
    event,
    func,
    insert,
    literal,
    make_url,
    null,
    select,
    text,
    update,
)

from bench.growth.writing import Pending, Row, Writer
from bench.stock import CALLER, FOLDER, api_of
from modelregistry.v1.access_service_pb2 import ROLE_OWNER, ROLE_VIEWER
from modelregistry.v1.compatibility_pb2 import COMPATIBILITY_MODE_ENFORCE_TRANSITIVE, COMPATIBILITY_MODE_WARN
from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.model_pb2 import ModelVersion, ModelVersionSource, PromotedSource, SdkSource
from modelregistry.v1.promotion_pb2 import (
    PROMOTION_KIND_PROMOTION,
    PROMOTION_KIND_ROLLBACK,
    AllowedSource,
    AllowedSources,
    ApprovalRule,
    BranchPolicy,
    Principals,
)
from modelregistry.v1.promotion_request_pb2 import (
    PROMOTION_REQUEST_KIND_POLICY_CHANGE,
    PROMOTION_REQUEST_KIND_PROMOTION,
    PROMOTION_REQUEST_STATE_PROMOTED,
)
from modelregistry.v1.promotion_service_pb2 import SetFolderBranchPolicyRequest
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_VERSION
from modelregistry.v1.subscription_pb2 import (
    DELIVERY_STATE_DEAD,
    DELIVERY_STATE_DELIVERED,
    SUBSCRIPTION_STATE_PAUSED,
)
from server.core.event_types import EventType
from server.rules.compatibility import RULES_VERSION
from server.rules.policy_changes import canonical_change
from server.storage.sql.cursors import LineagePlace
from server.storage.sql.rows import Content, content_of
from server.storage.sql.tables import (
    branch_model_apis,
    branch_policies,
    branches,
    contents,
    deliveries,
    delivery_queues,
    event_fan_out,
    events,
    folder_branch_policies,
    grant_changes,
    grants,
    models,
    opaque_keys,
    promotion_requests,
    promotions,
    requests,
    subscriptions,
    unyanks,
    verdicts,
    versions,
    yanks,
)

HELD_APIS = 16  # Model APIs that heads of the branch have had which holds to all of them
DEPTH = 100  # of the branches that are not deep
CHAIN_SHARE = 10  # how many times fewer versions the chain has than others are promoted once
BRANCH = "master"
# Branches of this name want approvals, and have no versions.
ASKED = "asked"
# So do these, each for one request: the same is requested once, and the smallest registry has few models.
ASKED_ONCE = [f"asked-{number}" for number in range(1_000)]
# How many requests for promotion are open, whatever the size: a few days' work.
OPEN_REQUESTS = 1_000
# And for changes of the policy of the folder.
OPEN_CHANGES = 100
# Into how many models: the smallest registry has no more.
MODELS_ASKED = 5
_CACHE_KIBIBYTES = 2**20
PROTECTED = "protected"  # a branch of the deep model with rules for sources, and no version yet
NEW_FOLDER = f"{FOLDER}-new"  # empty, for models to come
_CREATOR = f"user:{CALLER}"
_OTHER = "user:other"
_SDK = ModelVersionSource(sdk=SdkSource()).SerializeToString()


@dataclass(frozen=True)
class Filled:
    """What a filled database holds, by RID."""

    size: int
    all_models: tuple[str, ...]  # of the folder, as they are listed
    models: tuple[str, ...]  # with branches of DEPTH; those with odd numbers were promoted into
    registered: tuple[str, ...]  # some versions, each with one copy
    promoted: tuple[str, ...]  # some of those copies, in the same order
    promotions: tuple[str, ...]  # some promotions, each of one of those copies
    hub_model: str
    hub: str  # the version that was promoted so often
    deep_model: str
    held_model: str  # whose branch holds to all its heads
    wide_model: str
    branches: int  # of the wide model
    yanks: tuple[str, ...]  # of its versions, each taken back
    # Behind these positions there is one page of DEPTH left: time and key of a promotion, and key of a version.
    before_last_promotions: tuple[int, int]
    before_last_deep_promotions: tuple[int, int]
    before_newest_promotions: tuple[int, str]  # key and RID of one with DEPTH behind it, in the order of keys
    before_last_of_hub: tuple[LineagePlace, str]  # and the RID of the version there
    newest_deep: int  # the key of the newest version of the deep model
    chain: str  # the first version of a chain, each of which was promoted to be the next one, and then elsewhere
    before_last_of_chain: tuple[LineagePlace, str]
    rolled_back: str  # the first version of a branch that was rolled back to it, to what that made, and so on
    before_last_rollbacks: tuple[LineagePlace, str]  # behind which there is half a page left
    reviewed: str  # an open request, which the caller may approve
    asked_once: list[str]  # of ASKED_ONCE; which of them were asked for, is for the caller to remember
    open_requests: list[str]  # some others; which of them were withdrawn, is for the caller to remember
    subscription: str  # one with many deliveries
    subscriptions: list[str]  # some others; which of them were deleted, is for the caller to remember
    delivered: str  # the id of an event that was delivered
    before_last_request: int  # the key of the request for promotion with DEPTH behind it
    secret: bytes  # under which positions are written


def fill(url: str, size: int, seed: int = 7) -> Filled:
    """Fill an empty database, and return what it holds."""
    parsed = make_url(url)
    driver = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}[parsed.get_backend_name()]
    engine = create_engine(parsed.set(drivername=driver))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _in_haste)
    with engine.begin() as connection:
        filled = _Filler(connection, size, random.Random(seed)).fill()
    _tidy(engine)
    engine.dispose()
    return filled


class _Filler:
    """One database on its way."""

    def __init__(self, connection: Connection, size: int, chance: random.Random):
        self._writer = Writer(connection)
        self._connection = connection
        self._secret = connection.scalars(select(opaque_keys.c.key)).one()
        self._size = size
        self._chance = chance
        self._start_ms = int(time.time() * 1000) - 3 * size - 1_000_000
        self._pairs = size // (2 * DEPTH)
        self._contents = [_content(number) for number in range(self._pairs)]
        self._versions = itertools.count(1)  # the keys that come next
        self._promotion_key = 0
        self._deep_from = size  # the number of promotions before those into the deep branch
        self._positions: dict[int, tuple[int, int]] = {}  # of some promotions, by the number of older ones
        self._before_newest: tuple[int, str]

    def fill(self) -> Filled:
        """Put all in."""
        rids = {name: self._rid("model") for name in ("hub", "deep", "held", "wide", "chain", "rolled")}
        spread = [self._rid("model") for _ in range(2 * self._pairs)]
        hub = self._rid("model-version")
        wide = self._size // DEPTH
        self._writer.insert(models, map(self._model, [*spread, *rids.values()]))
        counts = [*[DEPTH] * len(spread), 2, self._size, self._size]
        self._writer.insert(branches, (_branch(key, BRANCH, count) for key, count in enumerate(counts, start=1)))
        held_key, wide_key = len(spread) + 3, len(spread) + 4
        self._writer.insert(branches, (_branch(wide_key, f"branch-{number:07}", 1) for number in range(wide)))
        chain = self._size // CHAIN_SHARE
        self._writer.insert(branches, (_branch(wide_key + 1, name, chain) for name in (BRANCH, "elsewhere")))
        self._writer.insert(branches, [_branch(wide_key + 2, BRANCH, 2 * chain)])
        self._writer.insert(contents, ({**c._asdict(), "size": len(c.payload)} for c in self._contents))
        self._writer.insert(verdicts, map(_verdict, self._contents))
        self._writer.insert(branch_policies, [self._policy(len(spread) + 2, spread[0])])
        samples = self._add_versions(spread, rids, hub, wide)
        self._writer.insert(branch_policies, [self._held_policy(held_key)])
        self._writer.insert(branch_model_apis, (_held_api(held_key, rids["held"], n) for n in range(HELD_APIS)))
        self._writer.insert(grant_changes, map(self._change, self._grants(spread)))
        self._writer.insert(grants, self._grants(spread))
        self._add_events()
        self._writer.insert(requests, map(self._request, range(self._size // 10)))
        self._writer.insert(folder_branch_policies, map(self._approvals, [ASKED, *ASKED_ONCE]))
        closed = [self._promotion_request(1 + 2 * (number % self._pairs)) for number in range(self._size // 10)]
        done = {"closed_as": PROMOTION_REQUEST_STATE_PROMOTED}
        self._writer.insert(promotion_requests, ({**row, **done} for row in closed))
        waiting = [self._promotion_request(1 + 2 * (number % MODELS_ASKED)) for number in range(OPEN_REQUESTS)]
        reviewed = self._promotion_request(1) | {"source_rid": samples.pop("others")}
        self._writer.insert(promotion_requests, ({**row, "closed_as": None} for row in [*waiting, reviewed]))
        self._writer.insert(promotion_requests, map(self._policy_change_request, range(OPEN_CHANGES)))
        subscribed = [self._subscription(spread[number % len(spread)]) for number in range(self._size // 20)]
        self._writer.insert(subscriptions, subscribed)
        self._writer.insert(delivery_queues, ({"subscription_id": key + 1} for key in range(len(subscribed))))
        delivered = [self._delivery(number) for number in range(self._size)]
        self._writer.insert(deliveries, delivered)
        # All are delivered: a server that is behind with that has no time for calls.
        newest = select(func.max(events.c.id)).scalar_subquery()
        self._connection.execute(update(event_fan_out).values(position=newest))
        return Filled(
            size=self._size,
            all_models=tuple(sorted([*spread, *rids.values()])),
            models=tuple(spread),
            hub_model=rids["hub"],
            hub=hub,
            deep_model=rids["deep"],
            held_model=rids["held"],
            wide_model=rids["wide"],
            branches=wide,
            before_last_promotions=self._positions[DEPTH],
            before_last_deep_promotions=self._positions[self._deep_from + DEPTH],
            before_newest_promotions=self._before_newest,
            reviewed=reviewed["rid"],
            asked_once=[*ASKED_ONCE],
            open_requests=[row["rid"] for row in waiting],
            subscription=subscribed[0]["rid"],
            subscriptions=[row["rid"] for row in subscribed[1 : 1 + DEPTH]],
            delivered=delivered[1]["event_id"],
            before_last_request=DEPTH + 1,
            secret=self._secret,
            **samples,
        )

    def _add_versions(self, spread: list[str], rids: dict[str, str], hub: str, wide: int) -> dict[str, Any]:
        registered, promoted, records, yanked = [], [], [], []
        version_rows = self._writer.into(versions)
        promotion_rows = self._writer.into(promotions, behind=version_rows)
        for pair, content in enumerate(self._contents):
            originals = [self._rid("model-version") for _ in range(DEPTH)]
            for number, rid in enumerate(originals, start=1):
                version_rows.add(self._version(rid, 2 * pair + 1, number, content, _SDK, rid)[0])
            for number, original in enumerate(originals, start=1):
                rid = self._rid("model-version")
                source = _source(spread[2 * pair], original)
                row, key = self._version(rid, 2 * pair + 2, number, content, source, original)
                version_rows.add(row)
                promotion = self._promotion(key, 2 * pair + 2, spread[2 * pair], original, pair + 1, number)
                promotion_rows.add(promotion)
                if number == DEPTH // 2:
                    registered.append(original)
                    promoted.append(rid)
                    records.append(promotion["rid"])
        hub_key, deep_key = len(spread) + 1, len(spread) + 2
        model_key, branch_key = len(spread) + 5, deep_key + 2 + wide
        chained = self._add_chain(rids["chain"], model_key, branch_key, version_rows, promotion_rows)
        chained |= self._add_rollbacks(rids["rolled"], model_key + 1, branch_key + 2, version_rows, promotion_rows)
        self._deep_from = self._promotion_key
        content, source = self._contents[0], _source(rids["hub"], hub)
        version_rows.add(self._version(hub, hub_key, 1, content, _SDK, hub)[0])
        key = 0
        for number in range(1, self._size + 1):
            rid = self._rid("model-version")
            row, key = self._version(rid, deep_key, number, content, source, hub)
            version_rows.add(row)
            promotion = self._promotion(key, deep_key, rids["hub"], hub, 1, number)
            promotion_rows.add(promotion)
            if number == self._size - DEPTH:
                before_last = LineagePlace(key, depth=1), rid
        newest_deep = key
        for number in range(1, self._size + 1):
            rid = self._rid("model-version")
            version_rows.add(self._version(rid, deep_key + 1, number, content, _SDK, rid)[0])
        for number in range(wide):
            rid = self._rid("model-version")
            row, key_of_wide = self._version(rid, deep_key + 2 + number, 1, content, _SDK, rid)
            version_rows.add(row)
            yanked.append(self._yank(key_of_wide, rid))
        promotion_rows.flush()
        self._writer.insert(yanks, yanked)
        self._writer.insert(unyanks, (_unyank(key) for key in range(1, wide + 1)))
        others = self._rid("model-version")
        row, _ = self._version(others, hub_key, 2, content, _SDK, others)
        self._writer.insert(versions, [{**row, "created_by": _OTHER}])
        samples = {"registered": registered, "promoted": promoted, "promotions": records}
        samples["yanks"] = [yank["rid"] for yank in yanked]
        told = {
            "before_last_of_hub": before_last,
            "newest_deep": newest_deep,
            "others": others,
            **chained,
        }
        return {**{name: tuple(each) for name, each in samples.items()}, **told}

    def _add_chain(
        self, model_rid: str, model_key: int, branch_key: int, version_rows: Pending, promotion_rows: Pending
    ) -> dict[str, Any]:
        """Put in a chain, in a branch, and one promotion more of each of its versions, in the next branch."""
        length, content = self._size // CHAIN_SHARE, self._contents[0]
        first = self._rid("model-version")
        version_rows.add(self._version(first, branch_key, 1, content, _SDK, first)[0])
        made = [first]
        for number in range(2, length + 1):
            made.append(self._rid("model-version"))
            source = _source(model_rid, made[-2])
            row, key = self._version(made[-1], branch_key, number, content, source, first)
            version_rows.add(row)
            promotion_rows.add(self._promotion(key, model_key, model_rid, made[-2], 1, number))
        leaves = []
        for number, source_rid in enumerate(made, start=1):
            source, rid = _source(model_rid, source_rid), self._rid("model-version")
            row, key = self._version(rid, branch_key + 1, number, content, source, first)
            version_rows.add(row)
            promotion_rows.add(self._promotion(key, model_key, model_rid, source_rid, 1, number))
            leaves.append((key, rid))
        # They are told when the chain is, the one of its end first.
        key, rid = leaves[DEPTH - 1]
        return {"chain": first, "before_last_of_chain": (LineagePlace(key, depth=DEPTH, is_last=False), rid)}

    def _add_rollbacks(
        self, model_rid: str, model_key: int, branch_key: int, version_rows: Pending, promotion_rows: Pending
    ) -> dict[str, Any]:
        """Put in a branch with two versions, and then one rollback after the other to the version before the last."""
        length, content = self._size // CHAIN_SHARE, self._contents[0]
        roots = [self._rid("model-version") for _ in range(2)]
        made: list[tuple[int, str]] = []
        for number, rid in enumerate(roots, start=1):
            row, key = self._version(rid, branch_key, number, content, _SDK, rid)
            version_rows.add(row)
            made.append((key, rid))
        for number in range(3, 2 * length + 1):
            rid, before, root = self._rid("model-version"), made[-2][1], roots[(number - 1) % 2]
            row, key = self._version(rid, branch_key, number, content, _source(model_rid, before), root)
            version_rows.add(row)
            promotion = self._promotion(key, model_key, model_rid, before, 1, number)
            promotion_rows.add({**promotion, "kind": PROMOTION_KIND_ROLLBACK})
            made.append((key, rid))
        depth = length - 1 - DEPTH // 2
        key, rid = made[2 * depth]
        return {"rolled_back": roots[0], "before_last_rollbacks": (LineagePlace(key, depth), rid)}

    def _add_events(self) -> None:
        """Put in what the versions and the grants were told as, each with the same words."""
        told = Event(id=str(uuid.UUID(int=self._chance.getrandbits(128)))).SerializeToString()
        payload = bindparam("told", told, type_=LargeBinary)
        created, promoted = literal(int(EventType.VERSION_CREATED)), literal(int(EventType.VERSION_PROMOTED))
        of_version = (
            select(
                case((promotions.c.id.is_(None), created), else_=promoted),
                branches.c.model_id,
                branches.c.name,
                versions.c.created_by,
                versions.c.created_time,
                payload,
            )
            .join_from(versions, branches)
            .outerjoin(promotions, promotions.c.version_id == versions.c.id)
            .order_by(versions.c.id)
        )
        of_grant = select(
            literal(int(EventType.GRANT_CHANGED)),
            select(models.c.id).where(models.c.rid == grant_changes.c.resource_rid).scalar_subquery(),
            null(),
            grant_changes.c.changed_by,
            grant_changes.c.changed_time,
            payload,
        ).order_by(grant_changes.c.id)
        columns = ["type", "model_id", "branch", "actor", "created_time", "payload", "rare_type"]
        for rows, rare in ((of_grant, literal(int(EventType.GRANT_CHANGED))), (of_version, null())):
            self._connection.execute(insert(events).from_select(columns, rows.add_columns(rare)))

    def _version(
        self, rid: str, branch_key: int, number: int, content: Content, source: bytes, root: str
    ) -> tuple[Row, int]:
        key = next(self._versions)
        row = {
            "rid": rid,
            "branch_id": branch_key,
            "version_number": number,
            "content_digest": content.digest,
            "source": source,
            "root_rid": root,
            "created_time": self._start_ms + key,
            "created_by": _CREATOR,
        }
        return row, key

    def _promotion(self, version_key: int, model_key: int, source_model: str, source: str, verdict: int, n: int) -> Row:
        created_ms = self._start_ms + version_key
        if self._promotion_key in (DEPTH, self._deep_from + DEPTH):
            self._positions[self._promotion_key] = (created_ms, self._promotion_key + 1)
        self._promotion_key += 1
        rid = self._rid("promotion")
        if self._promotion_key == self._deep_from + self._size - DEPTH:
            self._before_newest = self._promotion_key, rid
        return {
            "rid": rid,
            "kind": PROMOTION_KIND_PROMOTION,
            "version_id": version_key,
            "model_id": model_key,
            "source_model_rid": source_model,
            "source_rid": source,
            "verdict_id": None if n == 1 else verdict,
            "created_time": created_ms,
            "created_by": _CREATOR,
        }

    def _yank(self, version_key: int, root: str) -> Row:
        return {
            "rid": self._rid("yank"),
            "version_id": version_key,
            "root_rid": root,
            "scope": YANK_SCOPE_VERSION,
            "reason": "a reason",
            "yanked_by": _CREATOR,
            "yanked_time": self._start_ms,
        }

    def _subscription(self, resource_rid: str) -> Row:
        return {
            "rid": self._rid("subscription"),
            "resource_rid": resource_rid,
            "url": "https://hooks.example.com/",
            "state": SUBSCRIPTION_STATE_PAUSED,
            "created_by": _OTHER,
            "created_time": self._start_ms,
            "since_event": 0,
            "secret": b"sealed",
        }

    def _delivery(self, number: int) -> Row:
        """One of the first subscription; every tenth is of another."""
        return {
            "subscription_id": 1 if number % 10 else 2 + number % (self._size // 20 - 1),
            "event_key": number + 1,
            "event_id": str(uuid.UUID(int=number)),
            "event_type": int(EventType.VERSION_CREATED),
            "state": DELIVERY_STATE_DELIVERED if number % 7 else DELIVERY_STATE_DEAD,
            "queued_time": self._start_ms + number,
            "attempts": 1,
        }

    def _held_policy(self, model_key: int) -> Row:
        policy = BranchPolicy(compatibility_since_revision=1)
        return {
            "model_id": model_key,
            "branch": BRANCH,
            "compatibility": COMPATIBILITY_MODE_ENFORCE_TRANSITIVE,
            "changed_by": _CREATOR,
            "changed_time": self._start_ms,
            "revision": 1,
            "rules": policy.SerializeToString(),
        }

    def _model(self, rid: str) -> Row:
        name = f"model {rid}"
        return {
            "rid": rid,
            "name": name,
            "name_digest": hashlib.sha256(name.encode()).digest(),
            "parent_folder_rid": FOLDER,
            "created_time": self._start_ms,
            "created_by": _CREATOR,
        }

    def _policy(self, model_key: int, source_rid: str) -> Row:
        rules = BranchPolicy(allowed_sources=AllowedSources(sources=[AllowedSource(model_rid=source_rid)]))
        rules.min_time_as_head.FromMilliseconds(1)
        return {
            "model_id": model_key,
            "branch": PROTECTED,
            "compatibility": COMPATIBILITY_MODE_WARN,
            "changed_by": _CREATOR,
            "changed_time": self._start_ms,
            "revision": 1,
            "rules": rules.SerializeToString(),
        }

    def _grants(self, spread: list[str]) -> Iterator[Row]:
        for folder in (FOLDER, NEW_FOLDER):
            yield {"resource_rid": folder, "principal": _CREATOR, "role": ROLE_OWNER}
        for number, rid in enumerate(spread):
            yield {"resource_rid": rid, "principal": f"group:team-{number % 100}", "role": ROLE_VIEWER}

    def _change(self, grant: Row) -> Row:
        return {**grant, "changed_by": _CREATOR, "changed_time": self._start_ms}

    def _approvals(self, branch: str) -> Row:
        rule = ApprovalRule(required=2, approvers=[_CREATOR])
        return {
            "folder_rid": FOLDER,
            "branch": branch,
            "revision": 1,
            "rules": BranchPolicy(approvals=rule).SerializeToString(),
            "changed_by": _CREATOR,
            "changed_time": self._start_ms,
        }

    def _promotion_request(self, model_key: int) -> Row:
        now_ms = int(time.time() * 1000)
        return {
            "rid": self._rid("promotion-request"),
            "kind": PROMOTION_REQUEST_KIND_PROMOTION,
            "model_id": model_key,
            "branch": ASKED,
            "source_model_rid": self._rid("model"),
            "source_rid": self._rid("model-version"),
            "content_digest": self._contents[0].digest,
            "error_count": 0,
            "warning_count": 0,
            "requested_by": _OTHER,
            "created_time": now_ms,
            "expire_time": now_ms + 7 * 24 * 3_600_000,
        }

    def _policy_change_request(self, number: int) -> Row:
        wanted = SetFolderBranchPolicyRequest(
            folder_rid=FOLDER, branch=ASKED, promoters=Principals(principals=[f"user:{number}"])
        )
        change = canonical_change(wanted).SerializeToString(deterministic=True)
        now_ms = int(time.time() * 1000)
        return {
            "rid": self._rid("promotion-request"),
            "kind": PROMOTION_REQUEST_KIND_POLICY_CHANGE,
            "branch": ASKED,
            "error_count": 0,
            "warning_count": 0,
            "requested_by": _OTHER,
            "created_time": now_ms,
            "expire_time": now_ms + 7 * 24 * 3_600_000,
            "change": change,
            "change_digest": hashlib.sha256(change).digest(),
            "change_folder_rid": FOLDER,
        }

    def _request(self, _: int) -> Row:
        return {
            "caller": _CREATOR,
            "rpc": "PromoteVersion",
            "request_id": str(self._uuid()),
            "digest": self._chance.randbytes(32),
            "results": self._rid("model-version"),
            "created_time": self._start_ms,
        }

    def _rid(self, kind: str) -> str:
        return f"ri.models.main.{kind}.{self._uuid()}"

    def _uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self._chance.getrandbits(128), version=4)


def _branch(model_key: int, name: str, count: int) -> Row:
    return {"model_id": model_key, "name": name, "version_count": count}


def _held_api(branch_key: int, model_rid: str, number: int) -> Row:
    """A Model API by what is no digest of any; its version has the content of all on the branch."""
    return {
        "branch_id": branch_key,
        "level_rid": model_rid,
        "since_revision": 1,
        "version_number": number + 1,
        "api_digest": b"%d" % number,
    }


def _content(number: int) -> Content:
    return content_of(ModelVersion(model_api=api_of(10), conda_requirements=[f"library=={number}.0"]))


def _unyank(yank_key: int) -> Row:
    return {"yank_id": yank_key, "reason": None, "unyanked_by": _CREATOR, "unyanked_time": 0}


def _verdict(content: Content) -> Row:
    return {
        "head_digest": content.digest,
        "candidate_digest": content.digest,
        "rules": RULES_VERSION,
        "error_count": 0,
        "payload": b"",
        "size": 0,
    }


def _source(model_rid: str, version_rid: str) -> bytes:
    promoted = PromotedSource(previous_model_rid=model_rid, previous_model_version_rid=version_rid)
    return ModelVersionSource(promoted=promoted).SerializeToString()


def _in_haste(connection: sqlite3.Connection, _: object) -> None:
    """Fill without a journal, in memory as long as it lasts: what is interrupted is thrown away."""
    for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIBIBYTES}"):
        connection.execute(f"PRAGMA {pragma}")


def _tidy(engine: Engine) -> None:
    """Do what a database does by and by while it fills slowly."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
            connection.execute(text("CHECKPOINT"))
