"""Calls whose headers come and whose message never does hold nothing that other calls need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NewDatabase
from tests.interop.balance.replicas import FIRST, SECOND, Replicas
from tests.interop.test_envoy import envoy
from tests.processes import Server, until
from tests.siege.attackers import CHECK, REFLECTION, WATCH, besieged, half_open
from tests.siege.honest import ALL_SERVED, Honest
from tests.siege.places import Calls

# How many calls there are threads for, which are few; and of each kind, more than may wait for them.
THREADS = {
    "GetModelVersion": 4,
    "PromoteVersion": 8,
    "CreateModelVersion": 4,
    "UploadModelFiles": 64,
    "DownloadModelFiles": 64,
}
HUNDREDS = dict.fromkeys(THREADS, 150)


def named(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {rpc}" for rpc, count in counts.items())


def of_all_kinds(counts: dict[str, int], address: str, token: str | None = None, **options: Any) -> list[Calls]:
    return [half_open(address, rpc, count, token, **options) for rpc, count in counts.items()]


@pytest.mark.parametrize("counts", [*({rpc: count} for rpc, count in THREADS.items()), HUNDREDS], ids=named)
def test_strangers_are_refused_at_once_and_stop_no_others(
    server: Server, honest: Honest, counts: dict[str, int]
) -> None:
    with besieged(*of_all_kinds(counts, server.address)) as siege:
        assert honest.served() == ALL_SERVED
        assert siege.until_ended(sum(counts.values())) == {"UNAUTHENTICATED"}


def test_nor_do_callers_who_make_up_tokens(server: Server, honest: Honest) -> None:
    with besieged(*of_all_kinds(HUNDREDS, server.address, server.token("mallory"), forges=True)) as siege:
        assert honest.served() == ALL_SERVED
        # So many at once are not all looked at.
        assert siege.until_ended(sum(HUNDREDS.values())) <= {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}


@pytest.mark.parametrize("counts", [THREADS, HUNDREDS], ids=named)
def test_one_user_stops_no_other(server: Server, honest: Honest, counts: dict[str, int]) -> None:
    with besieged(*of_all_kinds(counts, server.address, server.token("mallory"))):
        assert honest.served() == ALL_SERVED


def test_a_message_that_does_not_come_ends_its_call(server: Server) -> None:
    # No more than one caller may have waiting.
    few = dict.fromkeys(THREADS, 6)
    with besieged(*of_all_kinds(few, server.address, server.token("mallory"), again_per_second=0)) as siege:
        assert siege.until_ended(sum(few.values())) == {"DEADLINE_EXCEEDED"}


@pytest.mark.parametrize(("path", "count"), [(CHECK, 2), (CHECK, 200), (WATCH, 300), (REFLECTION, 300)])
def test_services_that_are_open_to_all_stay_so(server: Server, honest: Honest, path: str, count: int) -> None:
    with besieged(half_open(server.address, path, count)):
        assert honest.served() == ALL_SERVED


@pytest.mark.parametrize("has_token", [False, True], ids=["strangers", "a user"])
def test_so_it_is_after_the_maximum_age_of_connections(tmp_path: Path, has_token: bool) -> None:
    """A connection that is too old stays open for the calls that are under way on it."""
    with Server(tmp_path / "cwd", "--max-connection-age", "1") as server:
        honest = Honest(server)
        token = server.token("mallory") if has_token else None
        attacks = of_all_kinds(THREADS, server.address, token)
        with besieged(*attacks) as siege:
            until(lambda: siege.goaways() >= len(attacks))
            assert honest.served() == ALL_SERVED


def test_so_it_is_behind_envoy(new_database: NewDatabase, tmp_path: Path) -> None:
    replicas = Replicas(tmp_path, new_database("postgresql", migrated=True))
    try:
        replicas.start(FIRST)
        replicas.start(SECOND)
        with envoy(tmp_path, [(FIRST, replicas.port), (SECOND, replicas.port)]) as proxy:
            honest = Honest(replicas[FIRST], proxy=proxy.target)
            with besieged(*of_all_kinds(HUNDREDS, proxy.target)):
                assert honest.served() == ALL_SERVED
    finally:
        replicas.close()
