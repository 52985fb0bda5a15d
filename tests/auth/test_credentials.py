"""What can be told of a call's credentials at once, and what takes a look at the token."""

from __future__ import annotations

import logging
import threading

import pytest

from server.auth.credentials import Credentials
from server.auth.keys import MIN_REFRESH_INTERVAL, REFRESH_SECONDS, JwksKeySet
from server.auth.tokens import MAX_AUTHORIZATION_LENGTH, TokenVerifier
from server.core.errors import ApiUsageDenied, InvalidCredentials, KeysUnavailable, MissingCredentials
from server.core.permissions import RPC_SCOPES
from tests.auth.forge import AUDIENCE, ISSUER, KeyPair, bearer, claims, jwks, key_pair

READ = "/modelregistry.v1.ModelService/GetModel"
WRITE = "/modelregistry.v1.ModelService/PromoteVersion"
READER = claims(scope=RPC_SCOPES[READ])


@pytest.fixture
def credentials(verifier: TokenVerifier) -> Credentials:
    return Credentials(verifier)


def test_a_token_is_known_once_it_was_verified(credentials: Credentials, key: KeyPair) -> None:
    token = bearer(key.sign(READER))
    assert credentials.from_cache(READ, token) is None
    judged = credentials.verified(READ, token)
    assert judged.caller is not None
    assert (judged.caller.user, judged.error) == ("user:alice", None)
    assert credentials.from_cache(READ, token) == judged


def test_a_token_for_other_rpcs_is_refused_at_once_when_it_is_known(credentials: Credentials, key: KeyPair) -> None:
    token = bearer(key.sign(READER))
    assert credentials.from_cache(WRITE, token) is None
    for judged in (credentials.verified(WRITE, token), credentials.from_cache(WRITE, token)):
        assert judged is not None
        assert judged.caller is not None
        assert isinstance(judged.error, ApiUsageDenied)
        assert judged.error.missing_scope == RPC_SCOPES[WRITE]


def test_who_shows_nothing_is_refused_at_once(credentials: Credentials) -> None:
    for judged in (credentials.verified(READ, None), credentials.from_cache(READ, None)):
        assert judged is not None
        assert judged.caller is None
        assert isinstance(judged.error, MissingCredentials)


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Bearer x", "Basic YTpi", "Bearer a.b.c" + "d" * MAX_AUTHORIZATION_LENGTH]
)
def test_what_is_no_token_is_refused_at_once_and_without_a_line(
    credentials: Credentials, caplog: pytest.LogCaptureFixture, shown: str
) -> None:
    caplog.set_level(logging.INFO)
    judged = credentials.from_cache(READ, shown)
    assert judged is not None
    assert isinstance(judged.error, InvalidCredentials)
    assert not caplog.records
    assert isinstance(credentials.verified(READ, shown).error, InvalidCredentials)
    assert "Credentials refused" in caplog.text


def test_a_forged_token_is_no_matter_of_a_moment(credentials: Credentials) -> None:
    forged = bearer(key_pair().sign(READER))
    assert credentials.from_cache(READ, forged) is None
    assert isinstance(credentials.verified(READ, forged).error, InvalidCredentials)
    assert credentials.from_cache(READ, forged) is None


def test_it_never_waits_for_the_issuer_and_a_withdrawn_key_stops_working() -> None:
    key, now, answers, asked = key_pair(kid="a"), [0.0], threading.Event(), threading.Event()
    published = [key]

    def load() -> str:
        asked.set()
        answers.wait(60)
        return jwks(*published)

    answers.set()
    verifier = TokenVerifier(JwksKeySet(load, lambda: now[0]), ISSUER, AUDIENCE)
    credentials, token = Credentials(verifier), bearer(key.sign(READER))
    judged = credentials.verified(READ, token)
    asked.clear()
    answers.clear()
    now[0] += REFRESH_SECONDS + 1
    # The keys are old: a caller that may wait has to ask for them.
    assert credentials.from_cache(READ, token) is None
    assert not asked.is_set()
    waiting = threading.Thread(target=credentials.verified, args=(READ, token))
    waiting.start()
    assert asked.wait(60)
    # While the issuer takes its time, the keys at hand hold.
    assert credentials.from_cache(READ, token) == judged
    published[:] = [key_pair(kid="b")]
    answers.set()
    waiting.join()
    while credentials.from_cache(READ, token) is not None:  # The refresh runs in a thread of its own, and ends now.
        pass
    assert isinstance(credentials.verified(READ, token).error, InvalidCredentials)


def test_a_token_that_was_verified_lets_no_caller_in_when_the_keys_are_too_old_either() -> None:
    key, now, is_there = key_pair(kid="a"), [0.0], [True]

    def load() -> bytes:
        if not is_there[0]:
            raise OSError("gone")
        return jwks(key)

    verifier = TokenVerifier(JwksKeySet(load, lambda: now[0], max_age=1000), ISSUER, AUDIENCE)
    credentials, token = Credentials(verifier), bearer(key.sign(READER))
    assert credentials.verified(READ, token).error is None
    is_there[0] = False
    now[0] += 1001
    for _ in range(2):
        assert credentials.from_cache(READ, token) is None
        judged = credentials.verified(READ, token)
        assert judged.caller is None
        assert isinstance(judged.error, KeysUnavailable)
    is_there[0] = True
    now[0] += MIN_REFRESH_INTERVAL
    assert credentials.verified(READ, token).error is None
