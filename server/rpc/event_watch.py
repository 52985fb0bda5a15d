"""Whoever watches events: streams without threads, which one thread tells what one read of the database finds.

A watcher is live or catches up. Those that are live have been told everything up to the place of this process, which
the one thread moves on. The others are told pages of ListEvents, by a few threads, each as soon as the client has taken
the one before; one that has come to that place is live from then on. One that takes more slowly than events come is no
longer live, but catches up: so little waits for each, and nobody waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from typing import NamedTuple

from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.event_service_pb2 import ListEventsRequest, WatchEventsRequest, WatchEventsResponse
from modelregistry.v1.list_order_pb2 import LIST_ORDER_OLDEST_FIRST
from server.core import cancellation
from server.core.caller import Caller
from server.core.cancellation import Call, CallOver
from server.core.errors import (
    CursorExpired,
    CursorUnknown,
    Internal,
    InvalidCredentials,
    ModelNotFound,
    Overloaded,
    RegistryError,
    ServerStopping,
    StorageUnavailable,
    WatcherTooSlow,
)
from server.rpc.held_streams import HeldStream
from server.rpc.turns import Turns
from server.rules.event_sight import EventSight
from server.rules.events import filter_of, list_events, listing_of
from server.storage.contract import EventFilter, KeptEvent, LogEnd, Reader, Repository
from server.storage.paging import Page, PageRequest

# How often it is looked for new events; and for streams that end, or want a bookmark.
POLL_SECONDS = 0.05
LOOK_SECONDS = 0.25
# How much later for each event that was found: where many come, a message has several, since it is by the message that
# a watcher costs something.
PAUSE_FOR_EACH = 0.002
LONGEST_POLL_SECONDS = 0.1
# How large a message becomes that has several events.
MESSAGE_BYTES = 2**16
# How soon after a failure it is tried again.
AGAIN_SECONDS = 1.0
# How many events are read at once for all who are live; a page is no larger than a message.
PAGE = PageRequest(1000)
# How much may wait for a client that is live. One that catches up has a quarter.
LIVE_BYTES = 2**20
# How many threads, each with a connection to the database at moments, read for those who catch up, and how many events.
CATCH_UP_THREADS = 2
CATCH_UP_PAGE = PageRequest(100)
CATCH_UP_BYTES = LIVE_BYTES // 4
# How many events are looked at for one of them before it is another one's turn.
CATCH_UP_WALK = 10_000
# How many connections to the database it takes: one for those who are live.
CONNECTIONS = 1 + CATCH_UP_THREADS
# How long a client may take for the last messages of a stream; at the end of the server, and otherwise.
STOP_SECONDS = 1.0
END_SECONDS = 30.0

# Reads for all. What it is not to see is taken out for each.
_READER = Caller(("user:",), is_admin=True)

log = logging.getLogger(__name__)


class WatchLimits(NamedTuple):
    """How many may watch, in all and with one principal, and for how long nothing may move.

    A bookmark is sent when nothing was for so long; a client that takes nothing for so long is given up.
    """

    watchers: int = 2000
    of_each_principal: int = 100
    bookmark_seconds: float = 15.0
    stall_seconds: float = 10.0


class _Place(NamedTuple):
    """A place in the log, as a key and as a cursor, and the id of the event there, where it is known."""

    key: int
    cursor: str
    event_id: str = ""

    @classmethod
    def behind(cls, kept: KeptEvent) -> _Place:
        """The place behind an event."""
        return cls(kept.key, kept.event.cursor, kept.event.id)

    @classmethod
    def at(cls, end: LogEnd, reader: Reader) -> _Place:
        """The place at an end of the log that is read. Raises StorageUnavailable if it is not one of that."""
        reader.require_event(end)
        return cls(end.key, reader.event_cursor(end.key), end.name)

    @property
    def end(self) -> LogEnd:
        """The place as the end of what is read."""
        return LogEnd(self.key, self.event_id)


class _Told(NamedTuple):
    """An event as a watcher is told it, and the place behind it."""

    place: _Place
    event: Event


class _Message(NamedTuple):
    """A message, and the place behind it."""

    place: _Place
    data: bytes


class _Watcher:
    """Whoever watches: the stream, what is wanted, and the place up to which everything was told."""

    __slots__ = ("bookmark_at", "call", "caller", "listing", "place", "stream", "wanted")

    def __init__(self, stream: HeldStream, caller: Caller, request: WatchEventsRequest):
        self.stream = stream
        self.caller = caller
        self.listing = listing_of(request)
        self.wanted = filter_of(self.listing)
        self.place = _Place(0, request.after_cursor)
        self.bookmark_at = 0.0
        self.call = Call()


class EventWatch:
    """Serves the watchers of a process; safe to share between threads."""

    def __init__(
        self,
        repository: Repository,
        withdrawn: Callable[[Caller], RegistryError | None],
        limits: WatchLimits = WatchLimits(),  # noqa: B008, as it is frozen
    ) -> None:
        """`withdrawn` returns why a caller may not go on, if so."""
        self._repository = repository
        self._withdrawn = withdrawn
        self._limits = limits
        self._sight = EventSight(repository)
        self._catching_up = ThreadPoolExecutor(CATCH_UP_THREADS, thread_name_prefix="catching-up")
        self._turns = Turns(self._catching_up)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        # Guarded by the lock: the places that are taken, by principal; who watches, who of them is live, and who is to
        # go on catching up when the database is back; the place up to which all who are live were told; the thread.
        self._taken: Counter[str] = Counter()
        self._watchers: dict[HeldStream, _Watcher] = {}
        self._live: dict[HeldStream, _Watcher] = {}
        self._later: list[_Watcher] = []
        self._place = _Place(0, "")
        self._thread: threading.Thread | None = None
        # The thread's own: when it has looked at all streams, and how many events it has found since it paused.
        self._looked_at = 0.0
        self._found = 0

    def watch(self, stream: HeldStream, request: WatchEventsRequest) -> None:
        """Tell a stream what it asks for, until it ends; returns as soon as that has begun.

        Raises Overloaded, ServerStopping, ModelNotFound, CursorUnknown and CursorExpired.
        """
        assert stream.caller is not None
        watcher = _Watcher(stream, stream.caller, request)
        self._take_place(watcher)
        now = self._begin(watcher, request)
        with self._lock:
            if self._stopping.is_set():
                raise ServerStopping
            if self._thread is None:
                self._place = now
                self._thread = threading.Thread(target=self._run, name="event-watch", daemon=True)
                self._thread.start()
            self._watchers[stream] = watcher
            if not request.HasField("after_cursor"):
                self._send_bookmark(watcher, now.cursor)
            is_live = self._join(watcher)
        if not is_live:
            self._catch_up_soon(watcher)
        if not stream.on_end(partial(self._leave, watcher)):
            self._leave(watcher)

    def stop(self) -> None:
        """End all streams, with a bookmark where the client takes it, and take no more.

        It returns when they have ended, which takes no more than some STOP_SECONDS, whatever the database does.
        """
        self._stopping.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(STOP_SECONDS)
        with self._lock:
            watchers = [*self._watchers.values()]
        # Unless it waits for the database still, and could go on.
        has_paused = thread is None or not thread.is_alive()
        self._end([(watcher, ServerStopping()) for watcher in watchers], self._cursors_soon if has_paused else None)
        until = time.monotonic() + STOP_SECONDS
        while self._watchers and time.monotonic() < until:
            time.sleep(POLL_SECONDS / 10)
        with self._lock:
            left = [*self._watchers]
        for stream in left:
            stream.cancel()
        self._catching_up.shutdown(wait=False, cancel_futures=True)

    # Who comes and goes

    def _take_place(self, watcher: _Watcher) -> None:
        user = watcher.caller.user
        with self._lock:
            if self._stopping.is_set():
                raise ServerStopping
            if self._taken.total() >= self._limits.watchers or self._taken[user] >= self._limits.of_each_principal:
                raise Overloaded(explanation="Too many streams of events are open.")
            self._taken[user] += 1
        if not watcher.stream.on_end(partial(self._give_place_up, user)):
            self._give_place_up(user)

    def _give_place_up(self, user: str) -> None:
        with self._lock:
            self._taken[user] -= 1
            if not self._taken[user]:
                del self._taken[user]

    def _begin(self, watcher: _Watcher, request: WatchEventsRequest) -> _Place:
        """Set the place from which a watcher is told, and return that of now."""
        settled = self._repository.settled_event()

        def begin(reader: Reader) -> tuple[_Place, _Place]:
            if request.HasField("model_rid"):
                reader.get_model(request.model_rid, watcher.caller)
            now = _Place.at(settled, reader)
            if not request.HasField("after_cursor"):
                return now, now
            return _Place(reader.event_key(request.after_cursor), request.after_cursor), now

        watcher.place, now = self._repository.read(begin)
        return now

    def _leave(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watchers.pop(watcher.stream, None)
            self._live.pop(watcher.stream, None)
        watcher.stream.close()
        watcher.call.end()

    def _join(self, watcher: _Watcher) -> bool:
        """Let a watcher be live if it was told everything up to the place of all; with the lock held."""
        if watcher.place.key < self._place.key or watcher.stream not in self._watchers:
            return False
        self._live[watcher.stream] = watcher
        return True

    # The one thread

    def _run(self) -> None:
        while True:
            try:
                self._go_on()
                pause = min(max(POLL_SECONDS, self._found * PAUSE_FOR_EACH), LONGEST_POLL_SECONDS)
                self._found = 0
            except (StorageUnavailable, Overloaded) as error:
                log.info("watchers are told nothing for now: %s", error.__cause__ or error)
                pause = AGAIN_SECONDS
            except Exception:
                log.exception("watchers could not be told what happened, which is tried again")
                pause = AGAIN_SECONDS
            with self._lock:
                if not self._watchers:
                    self._thread = None
                    return
            if self._stopping.wait(pause):
                return

    def _go_on(self) -> None:
        now = time.monotonic()
        is_looking = now - self._looked_at >= LOOK_SECONDS
        if is_looking:
            self._looked_at = now
            # Whatever the database does.
            self._end_some(now)
        settled = self._repository.settled_event_by_now()
        while settled != self._place.end and self._tell_page(settled):
            pass
        if is_looking:
            self._send_bookmarks(now)

    def _tell_page(self, settled: LogEnd) -> bool:
        """Tell all who are live what comes next, up to an event; return whether there is more."""
        place = self._place
        request = ListEventsRequest(after_cursor=place.cursor, order=LIST_ORDER_OLDEST_FIRST)

        def read(reader: Reader) -> tuple[Page[KeptEvent], _Place]:
            if settled.key < place.key:
                # Others know more than was looked at here; unless that was lost.
                reader.event_key(place.cursor)
                return Page([], None), place
            page = list_events(reader, _READER, request, settled, PAGE)
            # The last event tells its place itself. To ask for that of the settled one, which is mostly the same, takes
            # three more statements beside eight, and each waits for the interpreter where that is busy.
            return page, _Place.behind(page.items[-1]) if page.items else _Place.at(settled, reader)

        try:
            page, following = self._repository.read(read)
        except (CursorUnknown, CursorExpired) as error:
            # Not the log of which these were told. They all end, and nothing is told to whoever comes meanwhile.
            self._end_lost(error)
            return False
        self._found += len(page.items)
        self._sight.look_at(page.items)
        with self._lock:
            self._place = following
            live = [*self._live.values()]
        if page.items:
            self._tell(page.items, live, following)
        return following.key < settled.key

    def _tell(self, kept: Sequence[KeptEvent], live: Iterable[_Watcher], following: _Place) -> None:
        telling = _Telling(self._sight, kept)
        for watcher in live:
            if self._send_all(watcher, telling.messages_for(watcher), LIVE_BYTES):
                watcher.place = max(watcher.place, following, key=lambda place: place.key)
            else:
                self._let_catch_up(watcher)

    def _let_catch_up(self, watcher: _Watcher) -> None:
        with self._lock:
            self._live.pop(watcher.stream, None)
        watcher.stream.when_room(partial(self._catch_up_soon, watcher))

    def _send_all(self, watcher: _Watcher, messages: Iterable[_Message], most_bytes: int) -> bool:
        """Send messages to a watcher as long as no more than so many bytes wait; return whether that were all."""
        for message in messages:
            if watcher.stream.waiting_bytes > most_bytes:
                return False
            self._send(watcher, message.data, message.place.cursor)
            watcher.place = message.place
        return True

    def _send(self, watcher: _Watcher, message: bytes, cursor: str) -> None:
        watcher.stream.send(message, cursor)
        watcher.bookmark_at = time.monotonic() + self._limits.bookmark_seconds

    def _send_bookmark(self, watcher: _Watcher, cursor: str) -> None:
        self._send(watcher, _bookmark(cursor), cursor)

    def _send_bookmarks(self, now: float) -> None:
        with self._lock:
            due = [watcher for watcher in self._live.values() if watcher.bookmark_at <= now]
        try:
            cursors = self._new_cursors([watcher.place for watcher in due])
        except (CursorUnknown, CursorExpired) as error:
            self._end_lost(error)
            return
        for watcher in due:
            self._send_bookmark(watcher, cursors[watcher.place.key])

    def _new_cursors(self, places: Sequence[_Place]) -> dict[int, str]:
        """Return new cursors of places, by key: the same one again would tell that nothing has happened, to anyone.

        Raises CursorUnknown and CursorExpired if the log is another one by now.
        """
        if not places:
            return {}
        known = {place.key: place.cursor for place in places}
        return self._repository.read(
            lambda reader: {key: reader.event_cursor(reader.event_key(cursor)) for key, cursor in known.items()}
        )

    def _cursors_soon(self, places: Sequence[_Place]) -> dict[int, str]:
        """Return the same within STOP_SECONDS. Raises TimeoutError."""
        if not places:
            return {}
        return self._catching_up.submit(Context().run, self._new_cursors, places).result(STOP_SECONDS)

    # What ends streams

    def _end_some(self, now: float) -> None:
        """End the streams that are over, and have those go on that the database was away for."""
        with self._lock:
            watchers, later, self._later = [*self._watchers.values()], self._later, []
        over: list[tuple[_Watcher, RegistryError]] = []
        for watcher in watchers:
            stream = watcher.stream
            stalled_seconds = now - stream.stalled_since()
            if stream.is_ending:
                if stalled_seconds > END_SECONDS:
                    stream.cancel()
            elif stalled_seconds > self._limits.stall_seconds:
                stream.end_now(WatcherTooSlow(cursor=stream.place))
            elif time.time() >= stream.expires:
                over.append((watcher, InvalidCredentials()))
            elif withdrawn := self._withdrawn(watcher.caller):
                over.append((watcher, withdrawn))
        self._end(over, self._new_cursors)
        for watcher in later:
            self._catch_up_soon(watcher)

    def _end(
        self,
        over: Sequence[tuple[_Watcher, RegistryError]],
        cursors_of: Callable[[Sequence[_Place]], dict[int, str]] | None,
    ) -> None:
        """End streams, with a bookmark for those that were told everything; the clients of others have one already."""
        with self._lock:
            live = {watcher.stream for watcher, _ in over if self._live.pop(watcher.stream, None) is not None}
        cursors: dict[int, str] = {}
        if cursors_of is not None:
            with contextlib.suppress(RegistryError, TimeoutError):
                cursors = cursors_of([watcher.place for watcher, _ in over if watcher.stream in live])
        for watcher, error in over:
            cursor = cursors.get(watcher.place.key) if watcher.stream in live else None
            watcher.stream.end(error, None if cursor is None else (_bookmark(cursor), cursor))

    def _end_lost(self, error: CursorUnknown | CursorExpired) -> None:
        with self._lock:
            live, self._live = [*self._live.values()], {}
        for watcher in live:
            watcher.stream.end(type(error)(cursor=watcher.stream.place))
        settled = self._repository.settled_event()
        place = self._repository.read(lambda reader: _Place.at(settled, reader))
        with self._lock:
            self._place = place

    # Those who catch up

    def _catch_up_soon(self, watcher: _Watcher) -> None:
        # At the end of the process nobody catches up.
        with contextlib.suppress(RuntimeError):
            self._turns.add(watcher.caller.user, partial(Context().run, self._catch_up, watcher))

    def _catch_up(self, watcher: _Watcher) -> None:
        """Tell a watcher its next page, and then let it be live, or go on when others had their turn."""
        # What is asked for it ends with it.
        cancellation.begin(watcher.call)
        try:
            if watcher.stream in self._watchers and not watcher.stream.is_ending:
                self._tell_next(watcher)
        except CallOver:
            return
        except (StorageUnavailable, Overloaded):
            with self._lock:
                self._later.append(watcher)
        except (CursorUnknown, CursorExpired) as error:
            watcher.stream.end(error)
        except Exception:
            log.exception("a watcher could not be told what happened")
            watcher.stream.end(Internal())

    def _tell_next(self, watcher: _Watcher) -> None:
        with self._lock:
            target = self._place
        if watcher.place.key < target.key:
            page, following = self._page_for(watcher, target.end)
            messages = _packed([_Told(_Place.behind(one), one.event) for one in page.items])
            if self._send_all(watcher, messages, CATCH_UP_BYTES) and page.next_position is None:
                watcher.place = following
        watcher.bookmark_at = 0.0
        with self._lock:
            if self._join(watcher):
                return
        watcher.stream.when_room(partial(self._catch_up_soon, watcher))

    def _page_for(self, watcher: _Watcher, up_to: LogEnd) -> tuple[Page[KeptEvent], _Place]:
        """Return what comes next, and the place to which that leads if there is no more of it."""
        watcher.listing.after_cursor = watcher.place.cursor

        def read(reader: Reader) -> tuple[Page[KeptEvent], _Place]:
            end = reader.event_further_on(watcher.place.key, up_to, CATCH_UP_WALK)
            try:
                page = list_events(reader, watcher.caller, watcher.listing, end, CATCH_UP_PAGE)
            except ModelNotFound:
                # It is silent about what the caller may not see any more.
                page = Page([], None)
            return page, _Place.at(end, reader)

        return self._repository.read(read)


class _Telling:
    """What watchers are told of some events: what is found out for one holds for all who see and want the same.

    Of many watchers, most want the events of one model: nothing is found out for each of them of all events.
    """

    def __init__(self, sight: EventSight, kept: Sequence[KeptEvent]):
        self._sight = sight
        # All of them, and those about each model.
        self._about: dict[str | None, list[KeptEvent]] = {None: [*kept]}
        for one in kept:
            self._about.setdefault(one.event.model_rid, []).append(one)
        self._told: dict[tuple[Caller, int], _Told | None] = {}
        self._wanted: dict[tuple[Caller, EventFilter], list[_Told]] = {}
        self._packed: dict[tuple[Caller, EventFilter, int], list[_Message]] = {}

    def messages_for(self, watcher: _Watcher) -> list[_Message]:
        """Return what a watcher is told of those that are behind its place."""
        wish = watcher.caller, watcher.wanted
        if wish not in self._wanted:
            self._wanted[wish] = self._find_wanted(*wish)
        ahead = self._wanted[wish]
        first = bisect_right(ahead, watcher.place.key, key=lambda one: one.place.key)
        if (*wish, first) not in self._packed:
            self._packed[*wish, first] = _packed(ahead[first:])
        return self._packed[*wish, first]

    def _find_wanted(self, caller: Caller, wanted: EventFilter) -> list[_Told]:
        about = self._about.get(wanted.model_rid, ())
        told = (self._told_to(caller, one) for one in about if self._sight.is_wanted(one.event, wanted))
        return [one for one in told if one is not None]

    def _told_to(self, caller: Caller, kept: KeptEvent) -> _Told | None:
        if (caller, kept.key) not in self._told:
            event = self._sight.told(caller, kept)
            self._told[caller, kept.key] = None if event is None else _Told(_Place.behind(kept), event)
        return self._told[caller, kept.key]


def _packed(told: Iterable[_Told]) -> list[_Message]:
    """Return events in messages of some MESSAGE_BYTES, a larger one in one of its own."""
    messages: list[_Message] = []
    together: list[_Told] = []
    size = 0
    for one in told:
        if together and size + one.event.ByteSize() > MESSAGE_BYTES:
            messages.append(_message_of(together))
            together, size = [], 0
        together.append(one)
        size += one.event.ByteSize()
    if together:
        messages.append(_message_of(together))
    return messages


def _message_of(told: Sequence[_Told]) -> _Message:
    place = told[-1].place
    return _Message(
        place, WatchEventsResponse(events=[one.event for one in told], cursor=place.cursor).SerializeToString()
    )


def _bookmark(cursor: str) -> bytes:
    return WatchEventsResponse(cursor=cursor).SerializeToString()
