"""Calls that are begun and at once given up, far more of them than the one thread that takes calls can take."""

from __future__ import annotations

import pytest

from tests.processes import Server
from tests.siege.attackers import WATCH, besieged, resets
from tests.siege.honest import ALL_SERVED, Honest

PER_SECOND = 5_000


@pytest.mark.parametrize("path", ["GetModelVersion", WATCH])
def test_strangers_who_give_up_what_they_begin_stop_no_others(server: Server, honest: Honest, path: str) -> None:
    with besieged(resets(server.address, path, 8, PER_SECOND)):
        assert honest.served() == ALL_SERVED


def test_nor_does_a_user(server: Server, honest: Honest) -> None:
    with besieged(resets(server.address, "PromoteVersion", 8, PER_SECOND, server.token("mallory"))):
        assert honest.served() == ALL_SERVED
