"""Load in a process of its own: callers who each wait for an answer before they ask again.

Started by a benchmark as `python -m bench.load`, with a JSON object on standard input:

    protocol   "grpc" or "http"
    address    HOST:PORT
    token      the bearer token
    callers    how many there are; each has a connection of its own
    seconds    for how long they ask
    method     the full name of the RPC, or for HTTP the method, such as POST
    path       for HTTP alone, the path with the query
    body       the serialized request, base64

It prints a JSON object: `calls` that were answered, `failures`, and `milliseconds`, the sorted latencies.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import uvloop

Ask = Callable[[], Awaitable[bool]]  # whether the answer was a good one


async def ask_grpc(load: dict[str, Any], number: int) -> Ask:
    """Return what makes one call over a connection of its own."""
    # Channels with equal arguments would share one.
    channel = grpc.aio.insecure_channel(load["address"], [("grpc.enable_http_proxy", 0), ("bench.caller", number)])
    call = channel.unary_unary(load["method"])
    body = base64.b64decode(load["body"])
    metadata = (("authorization", f"Bearer {load['token']}"),)

    async def ask() -> bool:
        try:
            await call(body, metadata=metadata)
        except grpc.aio.AioRpcError:
            return False
        return True

    return ask


async def ask_http(load: dict[str, Any], _: int) -> Ask:
    """Return what makes one request over a connection of its own; no client library's work is measured with it."""
    host, _, port = load["address"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = base64.b64decode(load["body"])
    head = [
        f"{load['method']} {load['path']} HTTP/1.1",
        f"Host: {load['address']}",
        f"Authorization: Bearer {load['token']}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    request = "\r\n".join([*head, "", ""]).encode() + body

    async def ask() -> bool:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        return answer.startswith(b"HTTP/1.1 200 ")

    return ask


async def measure(load: dict[str, Any]) -> dict[str, Any]:
    """Return what the callers got."""
    connect = {"grpc": ask_grpc, "http": ask_http}[load["protocol"]]
    callers = [await connect(load, number) for number in range(load["callers"])]
    for ask in callers:
        await ask()
    milliseconds: list[float] = []
    failures = 0
    start = time.perf_counter()
    end = start + load["seconds"]

    async def keep_asking(ask: Ask) -> None:
        nonlocal failures
        while (before := time.perf_counter()) < end:
            failures += not await ask()
            milliseconds.append((time.perf_counter() - before) * 1000)

    await asyncio.gather(*map(keep_asking, callers))
    elapsed = time.perf_counter() - start
    return {
        "calls": len(milliseconds),
        "warm_up": len(callers),
        "failures": failures,
        "seconds": elapsed,
        "milliseconds": sorted(milliseconds),
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(json.load(sys.stdin)))))
