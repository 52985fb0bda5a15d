"""What strangers send and do not finish, or ask for and do not take, costs others neither memory nor answers."""

from __future__ import annotations

import pytest

from tests.processes import Server
from tests.siege.attackers import CHECK, REFLECTION, WATCH, besieged, half_messages, watches
from tests.siege.honest import ALL_SERVED, Honest
from tests.siege.memory import MOST, afterwards, is_back, peak, resident

RPCS = ("GetModelVersion", "PromoteVersion", "UploadModelFiles")
# What takes no token.
PATHS = (CHECK, WATCH, REFLECTION)


@pytest.mark.parametrize(
    ("rpcs", "subject"), [(RPCS, None), (RPCS, "mallory"), (PATHS, None)], ids=["strangers", "a user", "open services"]
)
def test_large_messages_that_are_never_complete_take_no_memory(
    server: Server, honest: Honest, rpcs: tuple[str, ...], subject: str | None
) -> None:
    assert honest.served() == ALL_SERVED
    before = resident(server)
    token = server.token(subject) if subject else None
    with besieged(*(half_messages(server.address, each, 300, token, per_connection=90) for each in rpcs)):
        assert honest.served() == ALL_SERVED
    assert max(peak(server)) < MOST
    after = afterwards(server, before)
    assert is_back(after, before), (before, after)


@pytest.mark.parametrize("count", [256, 2000])
def test_however_many_watch_health_more_can(server: Server, honest: Honest, count: int) -> None:
    with besieged(watches(server.address, count)):
        assert honest.served() == ALL_SERVED


def test_watchers_that_take_no_answer_stop_no_others(server: Server, honest: Honest) -> None:
    with besieged(watches(server.address, 300, window_bytes=0)):
        assert honest.served() == ALL_SERVED
