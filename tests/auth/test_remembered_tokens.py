"""A token that was verified is believed again for as long as it would be verified again."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from unittest import mock

import jwt
import pytest

from server.auth import tokens
from server.auth.local_keys import AUDIENCE, ISSUER, LocalKeys
from server.auth.tokens import LEEWAY, TokenVerifier
from server.errors import InvalidCredentials


class Keys:
    """The keys of an issuer who changes them at a test's wish."""

    def __init__(self, folder: Path):
        self._local = LocalKeys.open(folder)
        self.held = self._local.key_set()

    def find(self, kid: str | None) -> jwt.PyJWK | None:
        return self.held.find(kid)

    def token(self, ttl: timedelta = timedelta(hours=1)) -> str:
        return f"Bearer {self._local.mint('jane', ['api:models-read'], (), ttl)}"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "one")


@pytest.fixture
def verifier(keys: Keys) -> TokenVerifier:
    return TokenVerifier(keys, ISSUER, AUDIENCE)


def test_a_token_is_verified_once(keys: Keys, verifier: TokenVerifier) -> None:
    token = keys.token()
    with mock.patch.object(tokens.jwt, "decode", wraps=jwt.decode) as decode:
        callers = [verifier.verify(token) for _ in range(3)]
    assert [caller.user for caller in callers] == ["user:jane"] * 3
    assert decode.call_count == 1


def test_a_remembered_token_expires(keys: Keys, verifier: TokenVerifier) -> None:
    token = keys.token(timedelta(seconds=60))
    verifier.verify(token)
    later = time.time() + 60 + LEEWAY + 1
    with mock.patch.object(tokens.time, "time", return_value=later), mock.patch("jwt.api_jwt.datetime") as clock:
        clock.now.return_value.timestamp.return_value = later
        with pytest.raises(InvalidCredentials):
            verifier.verify(token)


def test_a_remembered_token_of_a_key_that_was_withdrawn_is_refused(
    keys: Keys, verifier: TokenVerifier, tmp_path: Path
) -> None:
    token = keys.token()
    verifier.verify(token)
    keys.held = LocalKeys.open(tmp_path / "another").key_set()
    with pytest.raises(InvalidCredentials):
        verifier.verify(token)


def test_a_token_that_was_refused_is_verified_each_time(keys: Keys, verifier: TokenVerifier) -> None:
    token = keys.token()
    forged = token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")
    for _ in range(2):
        with pytest.raises(InvalidCredentials):
            verifier.verify(forged)
    assert verifier.verify(token).user == "user:jane"


def test_no_more_tokens_are_remembered_than_there_is_room_for(keys: Keys, verifier: TokenVerifier) -> None:
    with mock.patch.object(tokens, "MAX_REMEMBERED", 3):
        for number in range(10):
            verifier.verify(keys.token(timedelta(hours=1, seconds=number)))
    assert len(verifier._verified) <= 3
