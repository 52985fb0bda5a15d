"""The Python client while it watches: servers are stopped and killed, tokens end, and each event comes once."""

from __future__ import annotations

import asyncio
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from modelregistry.v1.event_pb2 import Event
from modelregistry.v1.event_service_pb2 import ListEventsRequest, WatchEventsRequest, WatchEventsResponse
from modelregistry.v1.model_service_pb2 import PromoteVersionRequest
from modelregistry_client import Registry, aio, connect, errors
from modelregistry_client.watching import FIRST_SECONDS, LAST_SECONDS, Progress
from server.auth.local_keys import LocalKeys
from server.core.permissions import SCOPES
from tests.postgres import unused_port
from tests.processes import DEADLINE_SECONDS, Server, until

ROUNDS = 3
PROMOTED = "modelregistry.version.promoted.v1"


class Restarted:
    """A server that is started again at the same address, with the same database, and a version to promote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listen = f"127.0.0.1:{unused_port()}"
        self.server = self._start()
        with grpc.insecure_channel(self.server.address) as channel:
            admin = self.server.user(channel)
            self.source = admin.create_version(admin.create_model(f"source {uuid.uuid4()}"))
            self.target = admin.create_model(f"target {uuid.uuid4()}")

    def _start(self) -> Server:
        server = Server(self.folder, "--listen", self.listen)
        server.__enter__()
        return server

    def again(self, end: Callable[[Server], None]) -> None:
        end(self.server)
        self.server = self._start()

    def close(self) -> None:
        self.server.__exit__(None, None, None)

    def token(self) -> str:
        return self.server.token("admin")

    def promote(self, registry: Registry) -> str:
        promotion = PromoteVersionRequest(
            model_rid=self.target.rid, source_model_version_rid=self.source.rid, preview=True
        )
        return registry.models.PromoteVersion(promotion, timeout=DEADLINE_SECONDS).rid


@pytest.fixture
def restarted(tmp_path: Path) -> Iterator[Restarted]:
    restarted = Restarted(tmp_path / "server")
    yield restarted
    restarted.close()


ENDS: dict[str, Callable[[Server], None]] = {"stopped": Server.stop, "killed": Server.kill}


@pytest.mark.parametrize("end", ENDS)
def test_a_watch_goes_on_across_restarts_and_each_event_comes_once(restarted: Restarted, end: str) -> None:
    seen: queue.Queue[str] = queue.Queue()
    with connect(restarted.listen, restarted.token, plaintext=True) as registry:
        watch = registry.watch_events(model_rid=restarted.target.rid, types=[PROMOTED])

        def follow() -> None:
            for event in watch:
                seen.put(event.model_version_rid)

        thread = threading.Thread(target=follow)
        thread.start()
        until(lambda: watch.cursor is not None)  # The first bookmark: it has begun.
        made = []
        for _ in range(ROUNDS):
            made += [restarted.promote(registry) for _ in range(3)]
            restarted.again(ENDS[end])
            made.append(restarted.promote(registry))
        assert [seen.get(timeout=DEADLINE_SECONDS) for _ in made] == made
        watch.close()
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()
        assert seen.empty()


@pytest.mark.parametrize("end", ENDS)
def test_a_watch_of_asyncio_goes_on_as_well(restarted: Restarted, end: str) -> None:
    made: list[str] = []

    async def follow() -> list[str]:
        seen = []
        async with aio.connect(restarted.listen, restarted.token, plaintext=True) as registry:
            watch = registry.watch_events(model_rid=restarted.target.rid, types=[PROMOTED])
            working = asyncio.create_task(asyncio.to_thread(work, watch))
            async for event in watch:
                seen.append(event.model_version_rid)
                if len(seen) == 3 * ROUNDS:
                    watch.close()
            await working
        return seen

    def work(watch: aio.Watch) -> None:
        until(lambda: watch.cursor is not None)
        with connect(restarted.listen, restarted.token, plaintext=True) as registry:
            for _ in range(ROUNDS):
                made.extend([restarted.promote(registry) for _ in range(2)])
                restarted.again(ENDS[end])
                made.append(restarted.promote(registry))

    assert asyncio.run(asyncio.wait_for(follow(), DEADLINE_SECONDS)) == made


def test_a_watch_goes_on_behind_a_cursor_that_was_kept(restarted: Restarted) -> None:
    with connect(restarted.listen, restarted.token, plaintext=True) as registry:
        kept: str | None = registry.events.ListEvents(ListEventsRequest(page_size=1)).cursor
        for _ in range(ROUNDS):
            made = [restarted.promote(registry) for _ in range(2)]
            with registry.watch_events(model_rid=restarted.target.rid, after_cursor=kept) as watch:
                assert [next(watch).model_version_rid for _ in made] == made
                kept = watch.cursor


def test_a_watch_outlives_its_token_where_another_one_is_there(restarted: Restarted) -> None:
    keys = LocalKeys.open(restarted.folder / "modelregistry-data")
    tokens: list[str] = []

    def token() -> str:
        tokens.append(keys.mint("admin", SCOPES, (), timedelta(seconds=2)))
        return tokens[-1]

    with (
        connect(restarted.listen, token, plaintext=True) as registry,
        connect(restarted.listen, restarted.token, plaintext=True) as other,
        registry.watch_events(model_rid=restarted.target.rid, types=[PROMOTED]) as watch,
    ):
        seen: queue.Queue[Event] = queue.Queue()
        threading.Thread(target=lambda: [seen.put(event) for event in watch], daemon=True).start()
        until(lambda: len(tokens) >= 3)
        made = restarted.promote(other)
        assert seen.get(timeout=DEADLINE_SECONDS).model_version_rid == made


def test_a_watch_ends_with_its_token_where_there_is_no_other(restarted: Restarted) -> None:
    keys = LocalKeys.open(restarted.folder / "modelregistry-data")
    token = keys.mint("admin", SCOPES, (), timedelta(seconds=2))
    with (
        connect(restarted.listen, token, plaintext=True) as registry,
        registry.watch_events(model_rid=restarted.target.rid) as watch,
        pytest.raises(errors.InvalidCredentials),
    ):
        next(watch)


def test_what_would_only_fail_again_is_raised(restarted: Restarted) -> None:
    absent = f"ri.models.main.model.{uuid.uuid4()}"
    with connect(restarted.listen, restarted.token, plaintext=True) as registry:
        for wanted, error in (
            ({"model_rid": absent}, errors.ModelNotFound),
            ({"after_cursor": "x"}, errors.CursorUnknown),
            ({"types": ["promoted"]}, errors.InvalidArgument),
        ):
            with pytest.raises(error):
                next(registry.watch_events(**wanted))  # type: ignore[arg-type]


def test_a_watch_that_was_closed_ends_its_iteration(restarted: Restarted) -> None:
    with connect(restarted.listen, restarted.token, plaintext=True) as registry:
        watch = registry.watch_events()
        threading.Thread(target=lambda: (until(lambda: watch.cursor is not None), watch.close())).start()
        assert [event for event in watch if event.model_rid == restarted.target.rid] == []
        assert list(watch) == []


def test_an_asynchronous_watch_that_was_closed_ends_even_while_it_pauses(
    restarted: Restarted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def watch_and_close() -> list[Event]:
        pauses = asyncio.Event()

        def pause_after(*_: object) -> float:
            pauses.set()
            return 3600.0

        monkeypatch.setattr(Progress, "pause_after", pause_after)
        async with aio.connect(restarted.listen, restarted.token, plaintext=True) as registry:
            watch = registry.watch_events(types=[PROMOTED])
            async with asyncio.timeout(DEADLINE_SECONDS):
                rest = asyncio.create_task(_all(watch))
                while watch.cursor is None:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(restarted.again, Server.stop)
                await pauses.wait()
                watch.close()
                return await rest

    assert asyncio.run(watch_and_close()) == []


async def _all(watch: aio.Watch) -> list[Event]:
    return [event async for event in watch]


def failed(code: grpc.StatusCode) -> errors.RegistryError:
    """A failure with a code, as gRPC has it."""
    call = SimpleNamespace(
        code=lambda: code, details=lambda: code.name, initial_metadata=lambda: (), trailing_metadata=lambda: ()
    )
    return errors.RegistryError(call)


def test_pauses_grow_with_failures_in_a_row_and_begin_anew_behind_a_message() -> None:
    progress = Progress(WatchEventsRequest())
    unavailable = failed(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(errors.RegistryError):
        progress.pause_after(unavailable)  # It has not begun.
    progress.took(WatchEventsResponse(cursor="c"))
    for _ in range(2):
        longest = [FIRST_SECONDS * 2**number for number in range(10)]
        for most in longest:
            assert 0 <= progress.pause_after(unavailable) <= min(most, LAST_SECONDS)
        progress.took(WatchEventsResponse(cursor="d"))
        assert progress.next_event() is None
    assert progress.cursor == "d"
    ended = failed(grpc.StatusCode.UNAUTHENTICATED)
    progress.pause_after(ended)
    with pytest.raises(errors.RegistryError):
        progress.pause_after(ended)
    progress.took(WatchEventsResponse(cursor="e"))
    with pytest.raises(errors.RegistryError):
        progress.pause_after(failed(grpc.StatusCode.PERMISSION_DENIED))
