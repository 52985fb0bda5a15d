"""Clients that go away before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


async def unless_gone(request: Request, call: Coroutine[Any, Any, T]) -> T:
    """Return what a call returns. Raises ClientDisconnect, and cancels the call, if the client goes away before."""
    answered, gone = asyncio.ensure_future(call), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((answered, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            raise ClientDisconnect
        return answered.result()
    finally:
        answered.cancel()
        gone.cancel()
        # What was raised holds this frame, which would hold what was raised, and the request with its body.
        del answered, gone


async def _gone(request: Request) -> None:
    """Return when the client has closed its connection; what has arrived of the request was read, or is not wanted."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
