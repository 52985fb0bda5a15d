"""The limits of the HTTP server, and the shares of clients in them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from server.core.config import DEFAULT_HTTP_IDLE_TIMEOUT_SECONDS, DEFAULT_MAX_MESSAGE_BYTES
from server.core.errors import Overloaded

# Of what one worker has, the part that one caller or one address can use up.
SHARE = 4


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """The limits of one worker process; docs/http.md lists them. Times are in seconds."""

    max_body_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    # A token with many groups, and as much again.
    max_head_bytes: int = 32 * 2**10
    # Those whose clients have shown good credentials, and room for others beside them.
    max_connections: int = 2048
    spare_connections: int = 64
    # Requests with a body, from good credentials to the answer, and the bytes of their bodies.
    max_in_flight: int = 512
    max_bytes_in_flight: int = 256 * 2**20
    # Requests whose tokens are being verified for the first time.
    max_unverified: int = 64

    head_seconds: float = 10.0  # from its first byte to its last
    body_seconds: float = 60.0
    answer_seconds: float = 120.0  # for the client to read an answer
    idle_seconds: float = DEFAULT_HTTP_IDLE_TIMEOUT_SECONDS  # before the first request, and between requests
    linger_seconds: float = 5.0  # for the client to stop sending what is not read any more


class Quota:
    """How much of something is in use at once: in all, and by each holder."""

    def __init__(self, total: int, share: int | None = None):
        """`share` is how much of the total one holder may use; by default a quarter."""
        self._total = total
        self._share = max(1, total // SHARE) if share is None else share
        self._used = 0
        self._used_by: Counter[str] = Counter()

    def take(self, holder: str, amount: int = 1) -> None:
        """Use so much more. Raises Overloaded, and nothing more is used, if that is too much."""
        if self._used + amount > self._total or self._used_by[holder] + amount > self._share:
            raise Overloaded
        self._used += amount
        self._used_by[holder] += amount

    def give_back(self, holder: str, amount: int = 1) -> None:
        """Use so much less."""
        self._used -= amount
        self._used_by[holder] -= amount
        if not self._used_by[holder]:
            del self._used_by[holder]

    @contextlib.contextmanager
    def one(self, holder: str) -> Iterator[None]:
        """Use one more for a while. Raises Overloaded."""
        self.take(holder)
        try:
            yield
        finally:
            self.give_back(holder)
