"""A caller with a real gRPC client, who takes part while a load generator works and sees what that does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

_DEADLINE_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """How one call ended."""

    code: grpc.StatusCode
    milliseconds: float
    message: bytes


@dataclass(frozen=True)
class Sample:
    """The answers that the caller got, in the order of their ends."""

    answers: list[Answer] = field(default_factory=list)

    def of(self, code: grpc.StatusCode) -> list[Answer]:
        """Those with one status."""
        return [answer for answer in self.answers if answer.code == code]

    @property
    def codes(self) -> dict[str, int]:
        """How often each status came."""
        found = {answer.code for answer in self.answers}
        return {code.name: len(self.of(code)) for code in sorted(found, key=lambda code: code.name)}


@contextmanager
def sampling(
    address: str, path: str, requests: Sequence[bytes], token: str, callers: int = 1, pause: float = 0.05
) -> Iterator[Sample]:
    """Have callers ask these requests in turn meanwhile, each resting between two calls."""
    sample, done = Sample(), threading.Event()
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)

        def ask(first: int) -> None:
            number = first
            while not done.is_set():
                sample.answers.append(_ask(call, requests[number % len(requests)], token))
                number += callers
                done.wait(pause)

        with ThreadPoolExecutor(callers) as pool:
            asking = [pool.submit(ask, number) for number in range(callers)]
            try:
                yield sample
            finally:
                done.set()
            for each in asking:
                each.result()


def ask_once(address: str, path: str, request: bytes, token: str) -> Answer:
    """Make one call over a connection of its own."""
    with sampling(address, path, [request], token, pause=_DEADLINE_SECONDS) as sample:
        pass
    return sample.answers[0]


def _ask(call: grpc.UnaryUnaryMultiCallable[bytes, bytes], request: bytes, token: str) -> Answer:
    begin = time.perf_counter()
    code, message = grpc.StatusCode.OK, b""
    try:
        message = call(request, metadata=(("authorization", f"Bearer {token}"),), timeout=_DEADLINE_SECONDS)
    except grpc.RpcError as error:
        code = error.code()
    return Answer(code, (time.perf_counter() - begin) * 1000, message)
