"""Load over HTTP in a process of its own: callers who each wait for an answer before they ask again.

Started by a benchmark as `python -m bench.load`, with a JSON object on standard input:

    address    HOST:PORT
    callers    what each of them asks, over a connection of its own: a list of calls, made one after the other and
               counted as one. A call is an object:
                   method   such as POST
                   path     with the query
                   body     base64
                   good     the status of a good answer, 200 by default
    seconds    for how long they ask

It prints a JSON object: `calls` that were answered, `failures`, `warm_up` calls before the time began, and
`milliseconds`, the sorted latencies.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).parent.parent

Ask = Callable[[], Awaitable[bool]]  # whether the answer was a good one


def put(load: dict[str, Any]) -> dict[str, Any]:
    """Put a load on a server from another process, and return what its callers got."""
    answer = subprocess.check_output([sys.executable, "-m", "bench.load"], input=json.dumps(load), text=True, cwd=ROOT)
    measured: dict[str, Any] = json.loads(answer)
    return measured


def base64_of(body: bytes) -> str:
    """A body as JSON can hold it."""
    return base64.b64encode(body).decode()


async def ask_in_turn(load: dict[str, Any], calls: list[dict[str, Any]]) -> Ask:
    """Return what makes a caller's requests over its connection; no client library's work is measured with it."""
    host, _, port = load["address"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    prepared = [(_http_request(load, call), f"HTTP/1.1 {call.get('good', 200)} ".encode()) for call in calls]

    async def ask() -> bool:
        good = True
        for request, start in prepared:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            good = good and answer.startswith(start)
        return good

    return ask


def _http_request(load: dict[str, Any], call: dict[str, Any]) -> bytes:
    body = base64.b64decode(call["body"])
    head = [
        f"{call['method']} {call['path']} HTTP/1.1",
        f"Host: {load['address']}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


async def measure(load: dict[str, Any]) -> dict[str, Any]:
    """Return what the callers got."""
    callers = [await ask_in_turn(load, calls) for calls in load["callers"]]
    failures = sum([not await ask() for ask in callers])
    milliseconds: list[float] = []
    processor, start = time.process_time(), time.perf_counter()
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
        "processor_seconds": time.process_time() - processor,
        "seconds": elapsed,
        "milliseconds": sorted(milliseconds),
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(json.load(sys.stdin)))))
