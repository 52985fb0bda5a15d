"""What a call leaves behind: nothing that waits for the garbage collector, which looks at old objects seldom."""

from __future__ import annotations

import gc
import time

import grpc
import pytest

from server.core.errors import RegistryError
from server.rpc.telemetry import CallRecord
from tests.rpc.harness import Registry, path_of

SECONDS = 180


def left() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, RegistryError | CallRecord)]


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("user", "message"),
    [
        (None, b""),
        ("forger", b""),
        ("admin", b"\xff"),
        ("admin", b""),
        ("admin", b"\x0a\x01x"),
    ],
    ids=["no token", "bad token", "no message of this RPC", "nothing in it", "not valid"],
)
def test_a_refused_call_leaves_nothing(registry: Registry, user: str | None, message: bytes) -> None:
    metadata = registry.user(user).metadata if user else ()
    if user == "forger":
        metadata = (("authorization", metadata[0][1] + "x"),)
    call = registry.channel.unary_unary(path_of("GetModel"))
    before = len(left())
    for _ in range(20):
        with pytest.raises(grpc.RpcError):
            call(message, metadata=metadata, timeout=SECONDS)
    # The thread of the last one may not be through with it when the client has its answer.
    deadline = time.monotonic() + SECONDS
    while (now := left()) and len(now) > before and time.monotonic() < deadline:
        del now
    assert len(left()) <= before
