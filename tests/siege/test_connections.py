"""Connections that are opened and not used, or not to their end, do not use up what others need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.processes import COMMAND, Server, until
from tests.siege.attackers import ALMOST_TOO_LARGE, besieged, handshakes, silent, unfinished_posts
from tests.siege.honest import ALL_SERVED, Honest

FILES = 1024


@pytest.mark.parametrize("has_token", [False, True], ids=["strangers", "a user"])
def test_posts_that_are_never_complete(tmp_path: Path, has_token: bool) -> None:
    with Server(tmp_path / "cwd", MODELREGISTRY_WORKERS="2") as server:
        honest = Honest(server)
        token = server.token("mallory") if has_token else None
        with besieged(unfinished_posts(address_of(server), POST, 1100, token=token)):
            assert honest.served() == ALL_SERVED


@pytest.mark.parametrize("has_token", [False, True], ids=["strangers", "a user"])
def test_large_posts_that_are_never_complete(server: Server, honest: Honest, has_token: bool) -> None:
    token = server.token("mallory") if has_token else None
    # Whatever room the large ones leave, smaller ones take.
    attacks = [
        unfinished_posts(address_of(server), POST, count, token=token, sent=size)
        for count, size in [(66, ALMOST_TOO_LARGE), (66, 2**16), (66, 2**10), (66, 2**4)]
    ]
    with besieged(*attacks):
        assert honest.served() == ALL_SERVED


def test_http_connections_that_are_idle(server: Server, honest: Honest) -> None:
    with besieged(silent(address_of(server), 2050)):
        assert honest.served() == ALL_SERVED


def test_connections_that_say_nothing(server: Server, honest: Honest) -> None:
    with besieged(silent(server.address, 2000)):
        assert honest.served() == ALL_SERVED


def test_handshakes_of_tls_that_are_never_complete(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    cert, key = authority.issue("server")
    with Server(tmp_path / "cwd", "--tls-cert", cert, "--tls-key", key) as server:
        honest = Honest(server, certificate=authority.cert)
        with besieged(handshakes(server.address, 1000), handshakes(address_of(server), 1000)):
            assert honest.served() == ALL_SERVED


@pytest.mark.parametrize("protocols", [["gRPC"], ["HTTP"], ["gRPC", "HTTP"]], ids=" and ".join)
def test_more_connections_than_files_that_may_be_open(tmp_path: Path, protocols: list[str]) -> None:
    """At first they may keep others out, who wait; but not for longer than a handshake may take."""
    command = tmp_path / "modelregistry"
    command.write_text(f'#!/bin/bash\nulimit -n {FILES}\nexec {COMMAND} "$@"\n')
    command.chmod(0o755)
    with Server(tmp_path / "cwd", command=command) as server:
        honest = Honest(server)
        addresses = {"gRPC": server.address, "HTTP": address_of(server)}
        # Fewer come again than places become free: a quarter of the files is for connections, each of which has 10 s.
        with besieged(*(silent(addresses[each], 1100, again_per_second=10) for each in protocols)) as siege:
            if "gRPC" in protocols:
                until(lambda: sum(siege.ends()[0].values()) >= 1100)
            assert honest.served() == ALL_SERVED
        assert not any("StorageUnavailable" in str(line) for line in server.log())


POST = "/api/v2/models"


def address_of(server: Server) -> str:
    return server.url.partition("://")[2]
