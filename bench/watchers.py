"""Watchers of some models, in a process of their own: how long after its commit each event reaches them.

python -m bench.watchers ADDRESS COUNT RID...: the token is in the first line of the standard input; when that ends,
what was seen is printed. An event has the time at which it was decided, so its delay has its COMMIT in it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc.aio

from modelregistry.v1.event_service_pb2 import WatchEventsRequest, WatchEventsResponse

WATCH = "/modelregistry.v1.EventService/WatchEvents"


@dataclass
class Seen:
    """What watchers saw: how many events, and the delays in milliseconds that half and 99 % of them had at most."""

    events: int = 0
    p50: float = 0.0
    p99: float = 0.0

    def count(self, delays: Sequence[float]) -> None:
        """Take up what was seen, by the delays of all events."""
        ordered = sorted(delays)
        self.events = len(ordered)
        if ordered:
            self.p50, self.p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]


@contextmanager
def watching(address: str, token: str, model_rids: Sequence[str], count: int) -> Iterator[Seen]:
    """Let so many watch meanwhile, each one of the models. What is yielded says at the end what they saw."""
    seen = Seen()
    if not count:
        yield seen
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.watchers", address, str(count), *model_rids],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(f"{token}\n")
        process.stdin.flush()
        if process.stdout.readline() != "all watch\n":
            raise RuntimeError("the watchers did not begin")
        yield seen
        process.stdin.close()
        seen.count(json.loads(process.stdout.readline()))


async def _watch_all(address: str, token: str, model_rids: Sequence[str], count: int) -> list[float]:
    delays: list[float] = []
    begun = asyncio.Semaphore(0)
    # Each has a connection of its own, as processes have that serve models.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(count)]

    async def watch(channel: grpc.aio.Channel, model_rid: str) -> None:
        call = channel.unary_stream(WATCH, response_deserializer=WatchEventsResponse.FromString)
        request = WatchEventsRequest(model_rid=model_rid).SerializeToString()
        is_first = True
        async for message in call(request, metadata=(("authorization", f"Bearer {token}"),)):
            if is_first:
                is_first = False
                begun.release()
            now = time.time() * 1000
            delays.extend(now - event.time.ToMilliseconds() for event in message.events)

    # One that fails ends them all.
    async with asyncio.TaskGroup() as group:
        places = zip(channels, itertools.cycle(model_rids))
        watchers = [group.create_task(watch(*place)) for place in places]
        for _ in watchers:
            await begun.acquire()
        print("all watch", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for watcher in watchers:
            watcher.cancel()
    return delays


def main() -> None:
    """Watch until the standard input ends, and print the delays of what was seen."""
    address, count, *model_rids = sys.argv[1:]
    token = sys.stdin.readline().strip()
    print(json.dumps(asyncio.run(_watch_all(address, token, model_rids, int(count)))))


if __name__ == "__main__":
    main()
