from __future__ import annotations

import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.auth import keys as keys_module
from server.auth.keys import MAX_WAITERS, MIN_REFRESH_INTERVAL, REFRESH_SECONDS, JwksKeySet
from server.auth.tokens import TokenVerifier
from server.core.errors import KeysUnavailable
from tests.auth.forge import AUDIENCE, ISSUER, claims, jwks, key_pair


class Issuer:
    """Publishes a document, which may change or be withheld, and counts how often it is asked."""

    def __init__(self, document: bytes) -> None:
        self.document: bytes | Exception = document
        self.asked = 0
        self.now = 1000.0
        # Cleared by a test that wants a fetch to last until it has seen what it wanted to see.
        self.answers = threading.Event()
        self.answers.set()
        self.being_asked = threading.Event()

    def load(self) -> bytes:
        self.asked += 1
        self.being_asked.set()
        assert self.answers.wait(10)
        if isinstance(self.document, Exception):
            raise self.document
        return self.document

    def clock(self) -> float:
        return self.now

    def stop_answering(self) -> None:
        self.answers.clear()
        self.being_asked.clear()


@pytest.fixture
def issuer() -> Issuer:
    return Issuer(jwks(key_pair("ES256", "old")))


@pytest.fixture
def keys(issuer: Issuer) -> JwksKeySet:
    return JwksKeySet(issuer.load, issuer.clock)


def test_an_issuer_that_fails_at_first_is_an_error(issuer):
    issuer.document = OSError("no route to the issuer")
    with pytest.raises(ValueError, match="no route to the issuer"):
        JwksKeySet(issuer.load)


def test_an_unknown_id_makes_the_keys_be_loaded_again(issuer, keys):
    issuer.document = jwks(key_pair(kid="new"))
    assert keys.find("new", "ES256")
    assert not keys.find("old", "ES256")


def test_tokens_stay_known_whoever_makes_their_keys_be_loaded_again(issuer, keys):
    key, other = key_pair("ES256", "old"), key_pair("RS256", "other")
    issuer.document = jwks(key, other)
    verifier = TokenVerifier(keys := JwksKeySet(issuer.load, issuer.clock), ISSUER, AUDIENCE)
    tokens = [f"Bearer {each.sign(claims())}" for each in (key, other)]
    for token in tokens:
        verifier.verify(token)
    issuer.document = jwks(key_pair("ES256", "another"), key)
    issuer.now += MIN_REFRESH_INTERVAL
    assert keys.find("made up", "ES256") == ()
    assert issuer.asked == 2 + 1
    # But for those whose key is gone.
    assert [verifier.cached(token) is not None for token in tokens] == [True, False]


def test_known_ids_ask_the_issuer_for_nothing(issuer, keys):
    for _ in range(3):
        assert keys.find("old", "ES256")
        assert keys.find(None, "ES256")
    assert issuer.asked == 1


def test_a_token_without_an_id_is_no_reason_to_ask_the_issuer(issuer, keys):
    for _ in range(3):
        assert not keys.find(None, "EdDSA")
    assert issuer.asked == 1


def test_what_is_wrong_with_a_set_is_warned_about_once(issuer, keys, caplog):
    issuer.document = jwks(key_pair(kid="a"), key_pair(kid="a"))
    for _ in range(3):
        issuer.now += MIN_REFRESH_INTERVAL
        assert not keys.find("a", "ES256")
    assert issuer.asked == 1 + 3
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "'a'" in record.getMessage()


@pytest.mark.parametrize("outcome", ["no such key", "failure"])
def test_unknown_ids_ask_the_issuer_at_most_once_in_30_seconds(issuer, keys, outcome):
    if outcome == "failure":
        issuer.document = OSError("gone")
    for seconds in range(60):
        issuer.now = 1000.0 + seconds
        assert not keys.find(f"unknown-{seconds}", "ES256")
    assert issuer.asked == 1 + 2
    assert MIN_REFRESH_INTERVAL == 30


@pytest.mark.parametrize("answer", [OSError("gone"), ValueError("too large"), b"<html>", b'{"keys": 1}'], ids=repr)
def test_a_failed_refresh_keeps_the_keys_and_is_logged(issuer, keys, answer, caplog):
    issuer.document = answer
    assert not keys.find("new", "ES256")
    assert keys.find("old", "ES256")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]

    issuer.now += REFRESH_SECONDS + 1
    assert keys.find("old", "ES256")
    issuer.document = jwks(key_pair(kid="new"))
    issuer.now += MIN_REFRESH_INTERVAL
    assert keys.find("new", "ES256")


@pytest.mark.parametrize("left", [[key_pair(kid="new")], []], ids=["replaced", "all withdrawn"])
def test_a_withdrawn_key_stops_working_after_the_maximum_age(issuer, keys, left):
    issuer.document = jwks(*left)
    issuer.now += REFRESH_SECONDS
    assert keys.find("old", "ES256")
    issuer.now += 1
    assert not keys.find("old", "ES256")
    assert REFRESH_SECONDS == 300


def test_keys_that_stay_are_loaded_again_once_in_the_maximum_age(issuer, keys):
    for seconds in range(0, 1000, 10):
        issuer.now = 1000.0 + seconds
        assert keys.find("old", "ES256")
    assert issuer.asked == 1 + 3


# Keys that cannot be refreshed


@pytest.mark.parametrize("answer", [OSError("gone"), b"<html>"], ids=repr)
def test_keys_that_could_not_be_refreshed_for_too_long_let_no_caller_in_until_they_are(issuer, answer):
    keys = JwksKeySet(issuer.load, issuer.clock, max_age=1000)
    document, issuer.document = issuer.document, answer
    issuer.now += 1000
    assert keys.find("old", "ES256")
    assert keys.find_without_refresh("old", "ES256")
    issuer.now += 1
    for kid in ("old", "unknown", None):
        assert keys.find_without_refresh(kid, "ES256") is None
        with pytest.raises(KeysUnavailable):
            keys.find(kid, "ES256")
    issuer.document = document
    issuer.now += MIN_REFRESH_INTERVAL
    assert keys.find("old", "ES256")
    assert keys.loaded_at == issuer.now


def test_by_default_they_let_callers_in_for_a_day(issuer, keys):
    issuer.document = OSError("gone")
    issuer.now += 24 * 60 * 60
    assert keys.find("old", "ES256")
    issuer.now += 30
    with pytest.raises(KeysUnavailable):
        keys.find("old", "ES256")


def test_old_keys_are_loaded_again_also_while_no_token_asks_for_them(issuer, keys, monkeypatch):
    monkeypatch.setattr(keys_module, "MIN_REFRESH_INTERVAL", 0.01)
    issuer.being_asked.clear()
    keys.start()
    issuer.now += REFRESH_SECONDS + 1
    assert issuer.being_asked.wait(60)
    keys.stop()


def test_a_failing_refresh_is_warned_of_at_once_after_a_quarter_of_an_hour_and_then_each_hour(issuer, keys, caplog):
    issuer.document = OSError("no route to the issuer")
    told = []
    for minute in range(5, 25 * 60, 5):
        issuer.now = 1000.0 + minute * 60 + 1
        with contextlib.suppress(KeysUnavailable):
            keys.find("old", "ES256")
        told += [(minute, record.levelname) for record in caplog.records]
        caplog.clear()
    assert told == [
        *((minute, "WARNING") for minute in (5, *range(15, 24 * 60, 60))),
        (24 * 60, "ERROR"),
    ]


# Many callers at once


def test_many_callers_with_an_unknown_key_cause_one_fetch_and_all_get_it(issuer, keys):
    issuer.document = jwks(key_pair(kid="new"))
    issuer.stop_answering()
    start = threading.Barrier(MAX_WAITERS)

    def find() -> bool:
        start.wait(10)
        return keys.find("new", "ES256")

    with ThreadPoolExecutor(MAX_WAITERS) as pool:
        found = [pool.submit(find) for _ in range(MAX_WAITERS)]
        assert issuer.being_asked.wait(10)
        issuer.answers.set()
        assert all(future.result(10) for future in found)
    assert issuer.asked == 1 + 1


@pytest.mark.parametrize("seconds", [0, REFRESH_SECONDS + 1], ids=["fresh", "old"])
def test_a_fetch_does_not_hold_up_callers_whose_key_is_known(issuer, keys, seconds):
    issuer.now += seconds
    issuer.stop_answering()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(keys.find, "unknown", "ES256")
        assert issuer.being_asked.wait(10)
        assert keys.find("old", "ES256")
        assert not waiting.done()
        issuer.answers.set()
        assert waiting.result(10) == ()
    assert issuer.asked == 1 + 1


def test_made_up_key_ids_do_not_wait_for_an_issuer_that_does_not_answer(issuer, keys):
    issuer.stop_answering()
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(keys.find, f"made up {number}", "ES256") for number in range(8)]
        assert [future.result(10) for future in found] == [()] * 8
        assert keys.find("old", "ES256")
        assert issuer.asked == 1 + 1
        issuer.answers.set()
