"""Callers that mean no good: they take their places, in thousands, and stand there while others are served.

They live in a process of their own, so that they do not slow down the callers that are watched meanwhile.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from typing import Any

import uvloop

from tests.processes import DEADLINE_SECONDS, until
from tests.rpc.harness import path_of
from tests.siege.http2 import DEFAULT_WINDOW
from tests.siege.places import Calls, Connections, Resets

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
# The largest message that a server takes by default, but for a byte.
ALMOST_TOO_LARGE = 4 * 2**20 - 1

_COUNTS = ("standing", "goaways")

Attack = Calls | Connections | Resets


def half_open(address: str, rpc: str, count: int, token: str | None = None, **options: Any) -> Calls:
    """Calls whose headers come, and whose message never does; of an RPC of ours, or of a path."""
    return Calls(address, _path(rpc), count, token, **options)


def half_messages(address: str, rpc: str, count: int, token: str | None = None, **options: Any) -> Calls:
    """Calls with a large message but for its last byte; of an RPC of ours, or of a path."""
    return Calls(address, _path(rpc), count, token, message_bytes=ALMOST_TOO_LARGE, **options)


def watches(address: str, count: int, *, window_bytes: int = DEFAULT_WINDOW) -> Calls:
    """Calls that ask to be told of the server's health for ever."""
    return Calls(address, WATCH, count, message_bytes=0, is_complete=True, window_bytes=window_bytes)


def resets(address: str, rpc: str, count: int, per_second: int, token: str | None = None) -> Resets:
    """Connections on which calls are begun and at once given up; of an RPC of ours, or of a path."""
    return Resets(address, _path(rpc), count, per_second, token)


def silent(address: str, count: int, **options: Any) -> Connections:
    """Connections on which nothing is ever sent."""
    return Connections(address, count, **options)


def unfinished_posts(address: str, path: str, count: int, *, token: str | None = None, sent: int = 0) -> Connections:
    """POSTs over HTTP of whose body so many bytes come, and the last one never does."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {address}", "Content-Type: application/json"]
    lines += [f"Content-Length: {sent + 1}", *([f"Authorization: Bearer {token}"] if token else [])]
    return Connections(address, count, "".join(f"{line}\r\n" for line in (*lines, "")).encode() + b" " * sent)


def handshakes(address: str, count: int) -> Connections:
    """Connections that begin with TLS, and take no part in the rest of the handshake."""
    outgoing, context = ssl.MemoryBIO(), ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return Connections(address, count, outgoing.read())


def _path(rpc: str) -> str:
    return rpc if rpc.startswith("/") else path_of(rpc)


class Siege:
    """Attackers that stand."""

    def __init__(self, pipe: Pipe):
        self._pipe = pipe

    def ends(self) -> list[Counter[str]]:
        """For each attack in order, how often the server has ended one of its calls or connections, and how.

        That is the name of a gRPC status, or like `HTTP 408`, `reset CANCEL`, `GOAWAY NO_ERROR`, `closed`.
        """
        ends: list[Counter[str]] = self._ask("ends")
        return ends

    def until_ended(self, count: int) -> set[str]:
        """Wait until the server has ended so many, of all attacks, and return how."""
        until(lambda: sum(self.ends(), Counter()).total() >= count)
        return set(sum(self.ends(), Counter()))

    def standing(self) -> int:
        """How many calls and connections stand."""
        return int(self._ask("standing"))

    def goaways(self) -> int:
        """How many connections the server has asked to end so far, whatever stands on them."""
        return int(self._ask("goaways"))

    def _ask(self, question: str) -> Any:
        self._pipe.send(question)
        assert self._pipe.poll(DEADLINE_SECONDS), "the attackers do not answer"
        return self._pipe.recv()


@contextmanager
def besieged(*attacks: Attack) -> Iterator[Siege]:
    """Let attackers take their places; at the end they leave, all at once."""
    spawning = multiprocessing.get_context("spawn")
    pipe, theirs = spawning.Pipe()
    process = spawning.Process(target=_live, args=(attacks, theirs), name="attackers", daemon=True)
    process.start()
    theirs.close()
    try:
        assert pipe.poll(3 * DEADLINE_SECONDS), "the attackers do not find their places"
        pipe.recv()
        yield Siege(pipe)
        assert process.is_alive(), "the attackers have not stayed"
    finally:
        pipe.close()
        process.join(DEADLINE_SECONDS)
        process.kill()


def _live(attacks: tuple[Attack, ...], pipe: Pipe) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_stand(attacks, pipe))


async def _stand(attacks: tuple[Attack, ...], pipe: Pipe) -> None:
    ends: list[Counter[str]] = [Counter() for _ in attacks]
    groups = [attack.begin(each) for attack, each in zip(attacks, ends, strict=True)]
    await asyncio.gather(*(group.come() for group in groups))
    pipe.send(None)
    async with asyncio.TaskGroup() as standing:
        for group in groups:
            standing.create_task(group.come_again())
        asked: asyncio.Queue[None] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(pipe.fileno(), asked.put_nowait, None)
        while True:
            await asked.get()
            try:
                question = pipe.recv()
            except EOFError:
                # The system hangs up for all of them, without a farewell.
                os._exit(0)
            counts = {attribute: sum(getattr(group, attribute) for group in groups) for attribute in _COUNTS}
            pipe.send({"ends": ends, **counts}[question])
