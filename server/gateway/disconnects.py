"""Clients that go away before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


async def unless_gone(request: Request, call: Awaitable[T]) -> T:
    """Return what a call returns. Raises ClientDisconnect, and cancels the call, if the client goes away before."""
    answering = asyncio.current_task()
    assert answering is not None, "this runs in a task"
    has_gone = False

    def go(_: asyncio.Task[None]) -> None:
        nonlocal has_gone
        has_gone = True
        answering.cancel()

    # The call needs no task of its own: this one is cancelled if the other ends first.
    gone = asyncio.ensure_future(_gone(request))
    gone.add_done_callback(go)
    try:
        return await call
    except asyncio.CancelledError:
        if has_gone and not answering.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        gone.remove_done_callback(go)
        gone.cancel()


async def _gone(request: Request) -> None:
    """Return when the client has closed its connection; what has arrived of the request was read, or is not wanted."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
