"""The log of events: one is written with each change, in its transaction, by what stores the change.

An event's key is drawn when the transaction is marked as one that decides (`decisions`), and holds the locks that order
it among others of its branch. So of two keys the greater one can be committed first, but once all transactions have
ended that were marked when some key was known, every key up to that one is known or never will be: see
`SqlRepository.settled_event`. On SQLite one transaction at a time draws keys and commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    SmallInteger,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    select,
    true,
    tuple_,
)
from sqlalchemy.engine import Dialect

from modelregistry.v1.access_service_pb2 import ROLE_OWNER
from modelregistry.v1.event_pb2 import Event
from server.core.caller import Caller
from server.core.errors import CursorExpired, CursorUnknown, ModelNotFound, StorageUnavailable
from server.core.event_types import FOR_OWNERS, FREQUENT, NAMES, EventType
from server.core.origin import current_origin
from server.core.rids import FOLDER, rid_type
from server.core.uuids import new_uuid
from server.storage.contract import EventFilter, KeptEvent, LogEnd
from server.storage.paging import Page, PageRequest
from server.storage.sql.cursors import Cursors, EventCursors
from server.storage.sql.decisions import mark
from server.storage.sql.pages import messages_that_fit
from server.storage.sql.rows import AnyColumns, AnyRow
from server.storage.sql.session import Session
from server.storage.sql.statements import Statement, for_callers, numbered, padded, principals, several
from server.storage.sql.tables import event_retention, events, model_id, models, opaque_keys
from server.storage.sql.unit_of_work import UnitOfWork
from server.storage.sql.visibility import (
    MAX_NAMED,
    first_of_each,
    model_is_visible,
    role_on,
    role_on_model,
    visible_folders,
    visible_model_keys,
)
from server.storage.sql.walks import first_wanted

# By how much the time of an event can be before that of one with a smaller key: clocks that differ, and long changes.
SLACK_MS = 30 * 60 * 1000


def add_event(
    work: UnitOfWork,
    type_: EventType,
    event: Event,
    *,
    about: str | None,
    branch: str | None = None,
    actor: str,
    time: int | Timestamp,
) -> None:
    """Write an event about a model or a folder, or about neither; `time` is in ms since the epoch, or a message.

    The event, which is changed, has its subject, and its version if it is about one.
    """
    # Whoever waits for the events up to now waits for this transaction.
    mark(work)
    event.id = new_uuid()
    origin = current_origin()
    if origin is not None:
        event.request_id = origin.request_id
        event.peer = origin.peer
    is_folder = about is not None and rid_type(about) == FOLDER
    work.session.send(
        _add,
        {
            "event_type": int(type_),
            "told_rare_type": None if type_ in FREQUENT else int(type_),
            "about_model": None if is_folder else about,
            "about_folder": about if is_folder else None,
            "about_branch": branch,
            "by": actor,
            "at_ms": time if isinstance(time, int) else time.ToMilliseconds(),
            "told": event.SerializeToString(),
        },
    )


def newest_event(session: Session) -> LogEnd:
    """Return the newest event that is committed."""
    newest = session.one_or_none(_newest)
    return LogEnd() if newest is None else LogEnd(newest.id, Event.FromString(newest.payload).id)


def is_there(session: Session, end: LogEnd) -> bool:
    """Whether a database has an event that another one has told of, or there is none that it could have."""
    return _id_of(session, end.key) == end.name


def require_event(work: UnitOfWork, end: LogEnd) -> None:
    """See the contract."""
    if not is_there(work.session, end) and end.key > work.session.one(_secret).removed_up_to:
        raise StorageUnavailable


def event_key(work: UnitOfWork, cursor: str) -> int:
    """See the contract."""
    known = work.session.one(_secret)
    key, part = EventCursors(known.key).place(cursor)
    if key < known.removed_up_to:
        raise CursorExpired(cursor=cursor)
    if key > known.removed_up_to and not EventCursors.is_of(part, _id_of(work.session, key)):
        raise CursorUnknown(cursor=cursor)
    return key


def event_further_on(work: UnitOfWork, after: int, settled: LogEnd, count: int) -> LogEnd:
    """See the contract."""
    key = further_on(work.session, after, settled.key, count)
    return settled if key == settled.key else LogEnd(key, _id_of(work.session, key))


def further_on(session: Session, after: int, settled: int, count: int) -> int:
    """Return the key of the event so many behind a key, or the settled key if there are no more up to that."""
    return int(session.one(_further_on, {"after": after, "settled": settled, "count": count}).key or settled)


def event_cursor(work: UnitOfWork, key: int) -> str:
    """See the contract."""
    return EventCursors(work.session.one(_secret).key).cursor(key, _id_of(work.session, key))


def list_events(
    work: UnitOfWork, caller: Caller, wanted: EventFilter, keys: range, page: PageRequest, *, newest_first: bool
) -> Page[KeptEvent]:
    """See the contract."""
    known = work.session.one(_known(caller), {"model_rid": wanted.model_rid} | principals(caller))
    if wanted.model_rid is not None and known.model is None:
        raise ModelNotFound(model_rid=wanted.model_rid)
    after, before = _between(work.session, wanted, keys)
    positions = Cursors(known.secret)
    if page.after is not None:
        place = positions.numbers(page.after)[1]
        after, before = (after, min(before, place)) if newest_first else (max(after, place), before)
    walks = _walks(caller, wanted, known.model, after, before, newest_first=newest_first)
    found = [row for walk in walks for row in _choose(work.session, caller, walk, page.size + 1)]
    chosen = sorted(found, key=_key_of, reverse=newest_first)[: page.size + 1]
    if not chosen:
        return Page([], None)
    named = padded([row.id for row in chosen[: page.size]])
    rows = work.session.all(_several(caller, len(named)), numbered("key", named) | principals(caller))
    # What was hidden from the caller since it was chosen is left out.
    told = {row.id: row for row in rows if row.is_wanted}
    ordered = [told[row.id] for row in chosen[: page.size] if row.id in told]
    cursors = EventCursors(known.secret)
    listed = messages_that_fit([_to_event(row, cursors) for row in ordered], work.fitting_bytes)
    kept = [KeptEvent(row.id, event, row.role == ROLE_OWNER) for row, event in zip(ordered, listed, strict=False)]
    is_all = len(kept) == len(ordered) and len(chosen) <= page.size
    last = kept[-1].key if len(kept) < len(ordered) else chosen[: page.size][-1].id
    return Page(kept, None if is_all else positions.position(0, last))


def find_event(work: UnitOfWork, key: int, caller: Caller) -> KeptEvent | None:
    """See the contract."""
    row = work.session.one_or_none(_several(caller, 1), {"key_0": key} | principals(caller))
    if row is None or not row.is_wanted:
        return None
    cursors = EventCursors(work.session.one(_secret).key)
    return KeptEvent(row.id, _to_event(row, cursors), row.role == ROLE_OWNER)


class _Form(NamedTuple):
    """The form of a statement that walks through events: its conditions, but for their values.

    `along` are the columns before the key in the index by which it walks. Whatever else is wanted, each event is asked
    for.
    """

    newest_first: bool
    along: tuple[str, ...]
    type_count: int
    by_branch: bool
    by_actor: bool
    in_folder: bool
    is_since: bool
    is_until: bool
    by_sight: bool

    @property
    def has_checks(self) -> bool:
        """Whether not every event that is met is wanted."""
        others = (self.by_branch, self.by_actor, self.in_folder, self.is_since, self.is_until, self.by_sight)
        return self.type_count > 0 or any(others)


class _Walk(NamedTuple):
    """A walk through events between two keys: its form, and its values."""

    form: _Form
    values: dict[str, Any]

    def bounds(self, place: int) -> dict[str, int]:
        """Return the keys between which it goes on behind a place."""
        return {"before" if self.form.newest_first else "after": place}

    @property
    def start(self) -> int:
        """The key from which it starts."""
        start: int = self.values["before" if self.form.newest_first else "after"]
        return start


def _walks(
    caller: Caller, wanted: EventFilter, model: int | None, after: int, before: int, *, newest_first: bool
) -> Iterator[_Walk]:
    """Yield the walks on which all wanted events are met: one, or one for each type if all of them are rare."""
    types = sorted(wanted.types or ())
    are_rare = bool(types) and FREQUENT.isdisjoint(types)
    along = ("model_id",) if model is not None else ("actor",) if wanted.actor is not None and not are_rare else ()
    form = _Form(
        newest_first=newest_first,
        along=along,
        type_count=len(padded(types)) if types and not are_rare else 0,
        by_branch=wanted.branch is not None,
        by_actor=wanted.actor is not None and "actor" not in along,
        in_folder=wanted.folder_rid is not None,
        is_since=wanted.since_ms is not None,
        is_until=wanted.until_ms is not None,
        by_sight=not caller.is_admin,
    )
    values = {
        "after": after,
        "before": before,
        "model_id": model,
        "actor": wanted.actor,
        "branch": wanted.branch,
        "folder": wanted.folder_rid,
        "since_ms": wanted.since_ms,
        "until_ms": wanted.until_ms,
        **principals(caller),
    }
    if not are_rare:
        yield _Walk(form, values | numbered("type", [int(type_) for type_ in padded(types)] if types else []))
        return
    for type_ in types:
        yield _Walk(form._replace(along=("rare_type", *along)), values | {"rare_type": int(type_)})


def _choose(session: Session, caller: Caller, walk: _Walk, count: int) -> Sequence[AnyRow]:
    """Return the keys of the first wanted events of a walk, and so many at most."""
    form, values = walk.form, walk.values

    def look(place: int, many: int) -> Sequence[AnyRow]:
        return session.all(_look(caller, form), values | walk.bounds(place) | {"count": many})

    def of_few(place: int, lacking: int) -> Sequence[AnyRow] | None:
        if caller.is_admin:
            seen = [row.id for row in session.all(_in_folder, {"folder": values["folder"], "count": MAX_NAMED})]
            folders = [values["folder"]]
        else:
            seen, folders = [*visible_model_keys(session, caller)], visible_folders(session, caller)
        if not max(len(seen), len(folders)) < MAX_NAMED:
            return None
        found: list[AnyRow] = []
        for statement, name, places in ((_of_models, "model", seen), (_of_folders, "folder", folders)):
            if places:
                named = padded([*places])
                parameters = values | walk.bounds(place) | numbered(name, named) | {"count": lacking}
                found += session.all(statement(caller, form, len(named)), parameters)
        return sorted(found, key=_key_of, reverse=form.newest_first)

    asks_few = "model_id" not in form.along and (form.by_sight or form.in_folder)
    return first_wanted(
        look,
        walk.start,
        count,
        place_of=_key_of,
        has_checks=form.has_checks,
        of_few=of_few if asks_few else None,
    )


def _key_of(row: AnyRow) -> int:
    key: int = row.id
    return key


def _between(session: Session, wanted: EventFilter, keys: range) -> tuple[int, int]:
    """Return the keys between which, both excluded, all wanted events of a range are."""
    after, before = keys.start - 1, keys.stop
    if wanted.since_ms is not None:
        after = max(after, _last_before(session, wanted.since_ms - SLACK_MS, after))
    if wanted.until_ms is not None:
        before = min(before, _last_before(session, wanted.until_ms + SLACK_MS, before) + 1)
    return after, before


def _last_before(session: Session, time_ms: int, otherwise: int) -> int:
    """Return the key of an event before that time, behind which one comes that is not; else something `otherwise`."""
    found: int | None = session.one(_bisect, {"time_ms": time_ms}).key
    return otherwise if found is None else found


def _id_of(session: Session, key: int) -> str:
    row = session.one_or_none(_payload, {"key": key})
    return "" if row is None else Event.FromString(row.payload).id


def _to_event(row: AnyRow, cursors: EventCursors) -> Event:
    event = Event.FromString(row.payload)
    event.type = NAMES[EventType(row.type)]
    event.time.FromMilliseconds(row.created_time)
    event.actor = row.actor
    if row.model_rid is not None:
        event.model_rid = row.model_rid
    if row.folder_rid is not None:
        event.folder_rid = row.folder_rid
    if row.branch is not None:
        event.branch = row.branch
    if event.subject.HasField("promotion"):
        promotion = event.subject.promotion
        promotion.model_rid = row.model_rid
        promotion.branch = row.branch
        promotion.model_version_rid = event.model_version_rid
    event.cursor = cursors.cursor(row.id, event.id)
    return event


def _role(caller: Caller) -> ColumnElement[int | None]:
    """The caller's role on what an event is about; NULL if there is none."""
    if caller.is_admin:
        return role_on(caller)
    of_model = select(role_on_model(caller)).where(models.c.id == events.c.model_id).correlate(events).scalar_subquery()
    return func.coalesce(of_model, role_on(caller, events.c.folder_rid, of=events))


def _is_told(caller: Caller) -> ColumnElement[bool]:
    """Whether an event is told to the caller."""
    if caller.is_admin:
        return true()
    role = _role(caller)
    for_owners = tuple(literal_column(str(int(type_)), SmallInteger) for type_ in sorted(FOR_OWNERS))
    return case((events.c.type.in_(for_owners), role >= literal_column(str(ROLE_OWNER))), else_=role.is_not(None))


@for_callers
def _known(caller: Caller) -> Select[*AnyColumns]:
    """The secret of cursors, and the key of the model that is asked for; NULL if the caller sees none."""
    model = select(models.c.id).where(models.c.rid == bindparam("model_rid"), model_is_visible(caller))
    return select(opaque_keys.c.key.label("secret"), model.scalar_subquery().label("model"))


@for_callers
def _look(caller: Caller, form: _Form) -> Callable[[Dialect], Select[*AnyColumns]]:
    """The first events between two keys, and whether each passes the checks."""
    is_wanted = and_(true(), *_checks(caller, form)).label("is_wanted")
    return lambda dialect: _walked(dialect, form).add_columns(is_wanted)


@for_callers
def _of_models(caller: Caller, form: _Form, count: int) -> Callable[[Dialect], Select[*AnyColumns]]:
    """The first wanted events between two keys about some models: those of each, then of all."""
    groups = models.alias("groups")

    by_model = _asking_for_actor(form)
    along = (*by_model.along, "model_id")

    def build(dialect: Dialect) -> Select[*AnyColumns]:
        of_one = _walked(dialect, by_model._replace(along=along), groups.c.id).where(*_checks(caller, by_model))
        found, each = first_of_each(dialect, groups, of_one, events.c.id)
        query = select(each.c.id).select_from(found).where(groups.c.id.in_(several("model", count)))
        return _limited(query, form, each.c.id)

    return build


@for_callers
def _of_folders(caller: Caller, form: _Form, count: int) -> Callable[[Dialect], Select[*AnyColumns]]:
    """The first wanted events between two keys about some folders themselves."""
    by_folder = _asking_for_actor(form)
    checks = (events.c.folder_rid.in_(several("folder", count)), *_checks(caller, by_folder))
    # There are few: they are sorted, and not met on a walk through all events, which the plain key would invite.
    key = events.c.id + literal_column("0")
    in_order = key.desc() if form.newest_first else key
    return lambda dialect: _walked(dialect, by_folder).where(*checks).order_by(None).order_by(in_order)


def _asking_for_actor(form: _Form) -> _Form:
    """Return the form of a walk that does not go along an actor's events, but asks each for its actor."""
    along = tuple(name for name in form.along if name != "actor")
    return form._replace(along=along, by_actor=form.by_actor or along != form.along)


def _walked(dialect: Dialect, form: _Form, model: ColumnElement[Any] | None = None) -> Select[*AnyColumns]:
    """The first events between two keys along an index; the model is a column if it is no parameter.

    It is a range of the index's own columns. By equal values and a range of keys, PostgreSQL would as soon walk through
    all events by key, and ask each for the values. But of a range from a column to a key, SQLite takes the column alone
    into account, since it knows the key as the number of the row.
    """
    columns = [events.c[name] for name in form.along]
    given: list[ColumnElement[Any]] = [bindparam(column.name, type_=column.type) for column in columns]
    if model is not None:
        given[-1] = model
    after, before = (bindparam(name, type_=BigInteger) for name in ("after", "before"))
    if dialect.name == "sqlite":
        bounds = [column == value for column, value in zip(columns, given, strict=True)]
        bounds += [events.c.id > after, events.c.id < before]
    else:
        place = (*columns, events.c.id)
        bounds = [tuple_(*place) > tuple_(*given, after), tuple_(*place) < tuple_(*given, before)]
    if "rare_type" in form.along:
        bounds.append(events.c.rare_type.is_not(None))
    return _limited(select(events.c.id).where(*bounds), form, *columns, events.c.id)


def _limited(query: Select[*AnyColumns], form: _Form, *columns: ColumnElement[Any]) -> Select[*AnyColumns]:
    order = (column.desc() if form.newest_first else column for column in columns)
    return query.order_by(*order).limit(bindparam("count"))


def _checks(caller: Caller, form: _Form) -> list[ColumnElement[bool]]:
    checks: list[ColumnElement[bool]] = []
    if form.type_count:
        checks.append(events.c.type.in_(several("type", form.type_count)))
    if form.by_branch:
        checks.append(and_(events.c.branch.is_not(None), events.c.branch == bindparam("branch")))
    if form.by_actor:
        checks.append(events.c.actor == bindparam("actor"))
    if form.in_folder:
        parent = select(models.c.parent_folder_rid).where(models.c.id == events.c.model_id).scalar_subquery()
        folder = func.coalesce(parent, events.c.folder_rid, "")
        checks.append(folder == bindparam("folder"))
    if form.is_since:
        checks.append(events.c.created_time >= bindparam("since_ms", type_=BigInteger))
    if form.is_until:
        checks.append(events.c.created_time < bindparam("until_ms", type_=BigInteger))
    if form.by_sight:
        checks.append(_is_told(caller))
    return checks


@for_callers
def _several(caller: Caller, count: int) -> Select[*AnyColumns]:
    """Events by their keys, with the caller's role on what each is about, and whether it is told."""
    about = models.alias("about")
    return (
        select(events, about.c.rid.label("model_rid"))
        .add_columns(_role(caller).label("role"), _is_told(caller).label("is_wanted"))
        .outerjoin_from(events, about, about.c.id == events.c.model_id)
        .where(events.c.id.in_(several("key", count)))
    )


def _bisected() -> Select[*AnyColumns]:
    """The key of an event before a time, behind which one comes that is not; NULL if there are no events.

    Keys are drawn in the order of time, but for as long as a change takes and as clocks differ. So it is looked for as
    in an ordered list, without an index by time, which each promotion would pay for.
    """
    # Each end by itself, which is a look into the index.
    low, high = (select(end(events.c.id)).scalar_subquery() for end in (func.min, func.max))
    part = select((low - 1).label("low"), (high + 1).label("high")).cte("part", recursive=True)
    found, later = events.alias("found"), events.alias("later")
    middle = (part.c.low + part.c.high) // literal_column("2", BigInteger)
    behind = select(later.c.id).where(later.c.id >= middle).order_by(later.c.id).limit(literal_column("1"))
    next_key = behind.correlate(part).scalar_subquery()
    is_before = and_(found.c.created_time < bindparam("time_ms", type_=BigInteger), found.c.id < part.c.high)
    half = select(
        case((is_before, found.c.id), else_=part.c.low), case((is_before, part.c.high), else_=middle)
    ).join_from(part, found, found.c.id == next_key)
    part = part.union_all(half.where(part.c.low + 1 < part.c.high))
    return select(func.max(part.c.low).label("key"))


_bisect = Statement(_bisected())
_in_folder = Statement(
    select(models.c.id).where(models.c.parent_folder_rid == bindparam("folder")).limit(bindparam("count"))
)
_some = (
    select(events.c.id)
    .where(events.c.id > bindparam("after", type_=BigInteger), events.c.id <= bindparam("settled", type_=BigInteger))
    .order_by(events.c.id)
    .limit(bindparam("count"))
    .subquery()
)
# NULL where there are fewer.
_further_on = Statement(
    select(case((func.count() == bindparam("count", type_=Integer), func.max(_some.c.id))).label("key"))
)
_newest = Statement(select(events.c.id, events.c.payload).order_by(events.c.id.desc()).limit(1))
_secret = Statement(
    select(opaque_keys.c.key, event_retention.c.removed_up_to).join_from(opaque_keys, event_retention, true())
)
_payload = Statement(select(events.c.payload).where(events.c.id == bindparam("key")))
_add = Statement(
    insert(events).values(
        type=bindparam("event_type"),
        rare_type=bindparam("told_rare_type"),
        model_id=model_id(bindparam("about_model")),
        folder_rid=bindparam("about_folder"),
        branch=bindparam("about_branch"),
        actor=bindparam("by"),
        created_time=bindparam("at_ms"),
        payload=bindparam("told"),
    )
)
