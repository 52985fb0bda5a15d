"""Versions that were yanked, and where versions are live: the questions and changes of the contract about them.

A yank is found by the root of its version's lineage. Where there is none, which is nearly everywhere, a version costs
one look into an index; else its ancestors are walked, and never what was promoted from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    union,
)

from modelregistry.v1.event_pb2 import Event, EventSubject
from modelregistry.v1.recall_service_pb2 import YANK_SCOPE_LINEAGE, YANK_SCOPE_VERSION, LiveCopy, Yank
from server.core.caller import Caller
from server.core.event_types import EventType
from server.storage.contract import LiveCopies
from server.storage.paging import Page, PageRequest
from server.storage.sql.event_log import add_event
from server.storage.sql.lineage import descendants, source_of, trace
from server.storage.sql.pages import messages_that_fit
from server.storage.sql.rows import AnyColumns, AnyRow, timestamp
from server.storage.sql.statements import Statement, for_callers, forms, numbered, padded, principals, several, upsert
from server.storage.sql.tables import branches, is_head, models, promotions, unyanks, versions, yanks
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.visibility import model_is_visible

# How many versions a walk takes. One that has more, with its ancestors that are no older than what is yanked of its
# lineage, counts as yanked.
MAX_WALKED = 10_000
# How many all walks for one answer take: what is left then counts as yanked, too.
MAX_WALKED_IN_ALL = 4 * MAX_WALKED
# Behind every key.
_BEHIND_ALL = 2**63 - 1

_imported = promotions.alias("imported")
_of_lineage = versions.alias("of_lineage")


def suspect() -> ColumnElement[int | None]:
    """The key of the row of `versions` if anything of its lineage was ever yanked, else NULL: for `yanked_keys`."""
    # A value and not EXISTS, which PostgreSQL would rather look up in a table of all that there are. Nor does it ask
    # what was taken back: with that table and its index, a read would take a tenth more time of PostgreSQL.
    of_root = select(yanks.c.id).where(yanks.c.root_rid == versions.c.root_rid).limit(1)
    return case((of_root.scalar_subquery().is_not(None), versions.c.id)).label("suspect")


def yanked_keys(work: UnitOfWork, suspects: Iterable[int | None]) -> set[int]:
    """Return those keys of versions that are yanked, by themselves or by what they were promoted from."""
    keys = sorted({key for key in suspects if key is not None})
    if not keys:
        return set()
    listed = padded(keys)
    in_yanked_lineages: set[int] = set()
    oldest: int | None = None
    for row in work.session.all(_yanks_of_lineages(len(listed)), numbered("key", listed)):
        if row.scope == YANK_SCOPE_LINEAGE:
            in_yanked_lineages.add(row.id)
        else:
            oldest = row.version_id if oldest is None else min(oldest, row.version_id)
    # What is older than all that is yanked was promoted from none of it.
    rest = [key for key in keys if key not in in_yanked_lineages]
    if oldest is None or not rest:
        return in_yanked_lineages
    return in_yanked_lineages | _promoted_from_yanked(work, rest, oldest)


def _promoted_from_yanked(work: UnitOfWork, keys: list[int], oldest: int) -> set[int]:
    """Return those of the keys that are yanked versions, or came from one; no yanked one is older than this key."""
    yanked: set[int] = set()
    waiting, left = [keys], MAX_WALKED_IN_ALL
    while waiting:
        some = waiting.pop()
        if left <= 0:
            yanked.update(some)
            continue
        listed = padded(some)
        rows = work.session.all(
            _ancestors(len(listed)), numbered("key", listed) | {"oldest": oldest, "most": MAX_WALKED + 1}
        )
        left -= len(rows)
        if len(rows) <= MAX_WALKED:
            yanked.update(_stopped(rows).intersection(some))
        elif half := len(some) // 2:
            # One by one in the end, so that what a version counts as does not depend on what is asked along with it.
            waiting += [some[:half], some[half:]]
        else:
            yanked.update(some)
    return yanked


def _stopped(rows: Sequence[AnyRow]) -> set[int]:
    """Return the keys of versions that have a yank of their own, or came from one that has."""
    made_of = defaultdict(list)
    for row in rows:
        made_of[row.source_id].append(row.id)
    yanked = {row.id for row in rows if row.yank_id is not None}
    behind = [*yanked]
    while behind:
        more = [key for key in made_of[behind.pop()] if key not in yanked]
        yanked.update(more)
        behind += more
    return yanked


def stopping_yank(work: UnitOfWork, key: int | None, caller: Caller) -> Yank | None:
    """Return what stops a suspect: a yank that the caller may know of, or else an empty one; None if nothing does."""
    if key is None or not yanked_keys(work, [key]):
        return None
    row = work.session.one_or_none(
        _stopping(caller), {"key_0": key, "oldest": 0, "most": MAX_WALKED} | principals(caller)
    )
    return Yank() if row is None else _to_yank(row)


def add_yank(work: UnitOfWork, yank: Yank) -> Yank:
    """See the contract."""
    now_ms = work.clock_ms()
    work.session.send(
        _add,
        {
            "new_rid": yank.rid,
            "version_rid": yank.model_version_rid,
            "stopped": yank.scope,
            "given_reason": yank.reason,
            "yanker": yank.yanked_by,
            "now_ms": now_ms,
        },
    )
    stored = Yank()
    stored.CopyFrom(yank)
    stored.yanked_time.CopyFrom(timestamp(now_ms))
    _tell(work, EventType.VERSION_YANKED, stored, yank.yanked_by, now_ms)
    return stored


def take_yank_back(work: UnitOfWork, yank: Yank, reason: str | None, unyanked_by: str) -> None:
    """See the contract."""
    now_ms = work.clock_ms()
    values = {"rid": yank.rid, "given_reason": reason, "unyanker": unyanked_by, "now_ms": now_ms}
    if not work.session.change(_take_back, values):
        return
    taken = Yank(unyank_reason=reason, unyanked_by=unyanked_by, unyanked_time=timestamp(now_ms))
    taken.MergeFrom(yank)
    _tell(work, EventType.VERSION_UNYANKED, taken, unyanked_by, now_ms)


def _tell(work: UnitOfWork, type_: EventType, yank: Yank, actor: str, now_ms: int) -> None:
    event = Event(model_version_rid=yank.model_version_rid, subject=EventSubject(yank=yank))
    add_event(work, type_, event, about=yank.model_rid, actor=actor, time=now_ms)


def find_yank(work: UnitOfWork, yank_rid: str, caller: Caller) -> Yank | None:
    """See the contract."""
    row = work.session.one_or_none(_one(caller), {"rid": yank_rid} | principals(caller))
    return None if row is None else _to_yank(row)


def list_yanks(work: UnitOfWork, model_version_rid: str, caller: Caller, page: PageRequest) -> Page[Yank]:
    """See the contract."""
    traced, cursors = trace(work, model_version_rid, caller)
    before = _BEHIND_ALL if page.after is None else cursors.numbers(page.after)[1]
    parameters = {"traced": traced, "before": before, "count": page.size + 1}
    rows = work.session.all(_of_root(caller), parameters | principals(caller))
    listed = messages_that_fit([_to_yank(row) for row in rows[: page.size]], work.fitting_bytes)
    following = cursors.position(traced, rows[len(listed) - 1].id) if len(listed) < len(rows) else None
    return Page(listed, following)


def list_live_copies(work: UnitOfWork, model_version_rid: str, caller: Caller, page: PageRequest) -> LiveCopies:
    """See the contract."""
    traced, cursors = trace(work, model_version_rid, caller)
    after = 0 if page.after is None else cursors.numbers(page.after)[1]
    parameters = {"traced": traced, "after": after, "count": page.size + 1}
    rows = work.session.all(_live(caller), parameters | principals(caller))
    listed = messages_that_fit([_to_live_copy(row) for row in rows[: page.size]], work.fitting_bytes)
    following = cursors.position(traced, rows[len(listed) - 1].branch_key) if len(listed) < len(rows) else None
    return LiveCopies(Page(listed, following), rows[0].total if rows else 0)


def _holds() -> ColumnElement[bool]:
    """Whether the row of `yanks` was not taken back."""
    taken_back = select(unyanks.c.yank_id).where(unyanks.c.yank_id == yanks.c.id)
    return taken_back.scalar_subquery().is_(None)


def _walked(key_count: int) -> CTE:
    """Versions by their keys and their ancestors, each once, with the key of its source, nearest first.

    They are walked down to the key `oldest`, but for what was imported, since that can be stored before what it was
    promoted from. Of a chain that bites its own tail, which only an import can make, each link is walked once.
    """
    given = select(versions.c.id, source_of(versions.c.id).label("source_id"))
    walked = given.where(versions.c.id.in_(several("key", key_count))).cte("walked", recursive=True)
    source_id = walked.c.source_id
    was_imported = select(_imported.c.was_imported).where(_imported.c.version_id == source_id).scalar_subquery()
    is_young = or_(source_id >= bindparam("oldest", type_=BigInteger), was_imported)
    return walked.union(select(source_id, source_of(source_id)).where(source_id.is_not(None), is_young))


def _bounded(walked: CTE) -> FromClause:
    """The first of them, `most` at most."""
    # Neither database walks further than rows are taken.
    return select(walked.c.id, walked.c.source_id).limit(bindparam("most")).subquery("bounded")


@forms
def _ancestors(key_count: int) -> Select[*AnyColumns]:
    """Versions and their ancestors, each with a yank that stops it by itself if there is one."""
    bounded = _bounded(_walked(key_count))
    of_version = (
        select(yanks.c.id).where(yanks.c.version_id == bounded.c.id, yanks.c.scope == YANK_SCOPE_VERSION, _holds())
    ).limit(1)
    return select(bounded.c.id, bounded.c.source_id, of_version.scalar_subquery().label("yank_id"))


@forms
def _yanks_of_lineages(key_count: int) -> Select[*AnyColumns]:
    """Of versions by their keys, the yanks that hold in their lineages: by scope, the first version that has one."""
    return (
        select(versions.c.id, yanks.c.scope, func.min(yanks.c.version_id).label("version_id"))
        .join_from(versions, yanks, yanks.c.root_rid == versions.c.root_rid)
        .where(versions.c.id.in_(several("key", key_count)), _holds())
        .group_by(versions.c.id, yanks.c.scope)
    )


def _yanks(caller: Caller) -> Select[*AnyColumns]:
    """The yanks of versions that the caller may see."""
    return (
        select(
            yanks.c.id,
            yanks.c.rid,
            models.c.rid.label("model_rid"),
            versions.c.rid.label("version_rid"),
            yanks.c.scope,
            yanks.c.reason,
            yanks.c.yanked_by,
            yanks.c.yanked_time,
            unyanks.c.unyanked_by,
            unyanks.c.unyanked_time,
            unyanks.c.reason.label("unyank_reason"),
        )
        .join_from(yanks, versions, versions.c.id == yanks.c.version_id)
        .join(branches, branches.c.id == versions.c.branch_id)
        .join(models, models.c.id == branches.c.model_id)
        .outerjoin(unyanks, unyanks.c.yank_id == yanks.c.id)
        .where(model_is_visible(caller))
    )


@for_callers
def _stopping(caller: Caller) -> Select[*AnyColumns]:
    """The newest yank that stops the version `key_0` and that the caller may know of."""
    bounded = _bounded(_walked(1))
    stopping = union(
        select(yanks.c.id)
        .join_from(bounded, yanks, yanks.c.version_id == bounded.c.id)
        .where(yanks.c.scope == YANK_SCOPE_VERSION, _holds()),
        select(yanks.c.id)
        .join_from(_of_lineage, yanks, yanks.c.root_rid == _of_lineage.c.root_rid)
        .where(_of_lineage.c.id == bindparam("key_0"), yanks.c.scope == YANK_SCOPE_LINEAGE, _holds()),
    ).subquery("stopping")
    return _yanks(caller).where(yanks.c.id.in_(select(stopping.c.id))).order_by(yanks.c.id.desc()).limit(1)


@for_callers
def _one(caller: Caller) -> Select[*AnyColumns]:
    return _yanks(caller).where(yanks.c.rid == bindparam("rid"))


@for_callers
def _of_root(caller: Caller) -> Select[*AnyColumns]:
    root = select(_of_lineage.c.root_rid).where(_of_lineage.c.id == bindparam("traced")).scalar_subquery()
    listed = _yanks(caller).where(yanks.c.root_rid == root, yanks.c.id < bindparam("before", type_=BigInteger))
    return listed.order_by(yanks.c.id.desc()).limit(bindparam("count"))


@for_callers
def _live(caller: Caller) -> Select[*AnyColumns]:
    """The branches whose heads came of a version, behind a branch; with how many all are that are behind it."""
    # Step by step, by values and not by joins: no database can then think of asking all branches.
    down = descendants(select(bindparam("traced", type_=BigInteger).label("id")))
    headed = select(branches.c.id).join_from(versions, branches, is_head).where(versions.c.id == down.c.id)
    heads = select(down.c.id, headed.scalar_subquery().label("branch_key")).subquery("heads")
    target = (
        select(model_is_visible(caller)).join_from(branches, models).where(branches.c.id == heads.c.branch_key)
    ).scalar_subquery()
    listed = (
        select(heads, func.count().over().label("total"))
        .where(heads.c.branch_key > bindparam("after", type_=BigInteger), target)
        .order_by(heads.c.branch_key)
        .limit(bindparam("count"))
        .subquery("listed")
    )
    return (
        select(
            listed.c.branch_key,
            listed.c.total,
            models.c.rid.label("model_rid"),
            models.c.name.label("model_name"),
            branches.c.name.label("branch"),
            versions.c.rid,
            versions.c.version_number,
            versions.c.created_time,
            versions.c.created_by,
        )
        .join_from(listed, versions, versions.c.id == listed.c.id)
        .join(branches, branches.c.id == listed.c.branch_key)
        .join(models, models.c.id == branches.c.model_id)
        .order_by(listed.c.branch_key)
    )


def _to_yank(row: AnyRow) -> Yank:
    return Yank(
        rid=row.rid,
        model_rid=row.model_rid,
        model_version_rid=row.version_rid,
        scope=row.scope,
        reason=row.reason,
        yanked_by=row.yanked_by,
        yanked_time=timestamp(row.yanked_time),
        unyanked_by=row.unyanked_by,
        unyanked_time=None if row.unyanked_time is None else timestamp(row.unyanked_time),
        unyank_reason=row.unyank_reason,
    )


def _to_live_copy(row: AnyRow) -> LiveCopy:
    return LiveCopy(
        model_rid=row.model_rid,
        model_name=row.model_name,
        branch=row.branch,
        model_version_rid=row.rid,
        version_number=row.version_number,
        created_by=row.created_by,
        created_time=timestamp(row.created_time),
    )


_yanked = select(
    bindparam("new_rid", type_=yanks.c.rid.type),
    versions.c.id,
    versions.c.root_rid,
    bindparam("stopped", type_=yanks.c.scope.type),
    bindparam("given_reason", type_=yanks.c.reason.type),
    bindparam("yanker", type_=yanks.c.yanked_by.type),
    bindparam("now_ms", type_=yanks.c.yanked_time.type),
).where(versions.c.rid == bindparam("version_rid"))
_add = Statement(
    insert(yanks).from_select(
        ["rid", "version_id", "root_rid", "scope", "reason", "yanked_by", "yanked_time"],
        _yanked,
    )
)
_taken_back = select(
    yanks.c.id,
    bindparam("given_reason", type_=unyanks.c.reason.type),
    bindparam("unyanker", type_=unyanks.c.unyanked_by.type),
    bindparam("now_ms", type_=unyanks.c.unyanked_time.type),
).where(yanks.c.rid == bindparam("rid"))
_take_back = Statement(
    lambda dialect: (
        upsert(dialect, unyanks)
        .from_select(["yank_id", "reason", "unyanked_by", "unyanked_time"], _taken_back)
        .on_conflict_do_nothing(index_elements=[unyanks.c.yank_id])
    )
)
