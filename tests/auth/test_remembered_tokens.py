"""A token that was verified is believed again for as long as it would be verified again."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from unittest import mock

import jwt
import pytest

from server.auth import tokens
from server.auth.keys import MAX_TRIED_KEYS, REFRESH_SECONDS, JwksKeySet
from server.auth.local_keys import AUDIENCE, ISSUER, LocalKeys
from server.auth.tokens import TokenVerifier
from server.core.claims import LEEWAY, MAX_LEEWAY, ClaimRules
from server.core.errors import InvalidCredentials
from tests.auth import forge
from tests.auth.forge import KeyPair, bearer, claims, jwks, key_pair, refuse


class Keys:
    """The keys of an issuer who changes them at a test's wish."""

    def __init__(self, folder: Path):
        self._local = LocalKeys.open(folder)
        self.held = self._local.key_set()

    def find(self, kid: str | None, algorithm: str) -> tuple[jwt.PyJWK, ...]:
        return self.held.find(kid, algorithm)

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


@pytest.mark.parametrize("leeway", [0, LEEWAY, MAX_LEEWAY])
def test_a_remembered_token_expires(keys: Keys, leeway: int) -> None:
    verifier = TokenVerifier(keys, ISSUER, AUDIENCE, rules=ClaimRules(leeway=leeway))
    token = keys.token(timedelta(seconds=60))
    verifier.verify(token)
    later = time.time() + 60 + leeway + 1
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


# Tokens that do not say which of several keys has signed them


@pytest.fixture
def published() -> list[KeyPair]:
    return [key_pair("ES256", kid=f"{number}") for number in range(3)]


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def nameless_verifier(published: list[KeyPair], clock: list[float]) -> TokenVerifier:
    return TokenVerifier(JwksKeySet(lambda: jwks(*published), lambda: clock[0]), forge.ISSUER, forge.AUDIENCE)


def nameless(pair: KeyPair) -> str:
    return bearer(KeyPair(pair.algorithm, None, pair.private_key).sign(claims()))


def test_a_token_without_a_key_id_is_verified_once(published: list[KeyPair], nameless_verifier: TokenVerifier) -> None:
    token = nameless(published[-1])
    nameless_verifier.verify(token)
    with mock.patch.object(tokens.jwt, "decode", side_effect=AssertionError):
        assert nameless_verifier.verify(token).user == "user:alice"


def test_a_token_without_a_key_id_is_refused_when_its_own_key_was_withdrawn(
    published: list[KeyPair], clock: list[float], nameless_verifier: TokenVerifier
) -> None:
    of_first, of_last = nameless(published[0]), nameless(published[-1])
    for token in (of_first, of_last):
        nameless_verifier.verify(token)
    del published[0]
    clock[0] += REFRESH_SECONDS + 1
    refuse(nameless_verifier, of_first)
    assert nameless_verifier.verify(of_last).user == "user:alice"


def test_a_token_without_a_key_id_is_refused_when_too_many_keys_were_added(
    published: list[KeyPair], clock: list[float], nameless_verifier: TokenVerifier
) -> None:
    token = nameless(published[0])
    nameless_verifier.verify(token)
    published += [key_pair("ES256", kid=f"more {number}") for number in range(MAX_TRIED_KEYS)]
    clock[0] += REFRESH_SECONDS + 1
    refuse(nameless_verifier, token)


def test_a_token_of_the_only_key_is_refused_when_another_took_its_place(clock: list[float]) -> None:
    published = [key_pair("ES256", kid=None)]
    verifier = TokenVerifier(JwksKeySet(lambda: jwks(*published), lambda: clock[0]), forge.ISSUER, forge.AUDIENCE)
    token = bearer(published[0].sign(claims(), kid="any"))
    for _ in range(2):
        assert verifier.verify(token).user == "user:alice"
    published[0] = key_pair("ES256", kid=None)
    clock[0] += REFRESH_SECONDS + 1
    refuse(verifier, token)
