from __future__ import annotations

import json
import logging
import time

import pytest

from server.auth.keys import JwksKeySet
from server.auth.tokens import TokenVerifier
from server.core.caller import Caller
from tests.auth.forge import ALGORITHMS, AUDIENCE, ISSUER, assemble, bearer, claims, jwks, key_pair, refuse


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_each_algorithm_is_accepted(verifier, keys, algorithm):
    assert verifier.verify(bearer(keys[algorithm].sign(claims()))) == Caller(("user:alice",))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_scheme_is_read_in_any_case(verifier, key, scheme):
    assert verifier.verify(f"{scheme} {key.sign(claims())}").user == "user:alice"


def test_groups_become_principals_in_their_order_and_once(verifier, key):
    token = key.sign(claims(groups=["b", "a", "b"]))
    assert verifier.verify(bearer(token)).principals == ("user:alice", "group:b", "group:a")


def test_groups_that_cannot_be_principals_are_dropped(verifier, key):
    no_text = [1, True, None, ["a"], {"a": "b"}]
    no_name = ["", "a\nb", "\x85", "\ud800", "g" * 250, "ü" * 125]
    token = key.sign(claims(groups=[*no_text, *no_name, "g" * 249, "ok"]))
    assert verifier.verify(bearer(token)).principals == ("user:alice", "group:" + "g" * 249, "group:ok")


def test_a_group_is_never_taken_for_a_user(verifier, key):
    caller = verifier.verify(bearer(key.sign(claims(groups=["user:root", "root"]))))
    assert caller.principals == ("user:alice", "group:user:root", "group:root")
    assert not caller.is_admin


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("ml", ("group:ml",)),
        ("ml release, a b", ("group:ml release, a b",)),
        ("/ml/release", ("group:/ml/release",)),
        (None, ()),
        ([], ()),
        ("", ()),
        ("g" * 250, ()),
    ],
)
def test_one_group_may_be_a_string_and_none_null(verifier, key, groups, expected):
    token = key.sign(claims(groups=groups, scope="api:models-read"))
    assert verifier.verify(bearer(token)) == Caller(("user:alice", *expected), frozenset({"api:models-read"}))


@pytest.mark.parametrize(
    ("given_scopes", "expected"),
    [
        ({"scope": "read write"}, {"read", "write"}),
        ({"scope": " read  "}, {"read"}),
        ({"scope": ""}, set()),
        ({"scp": "read write"}, {"read", "write"}),
        ({"scp": ["read", "write"]}, {"read", "write"}),
        ({"scope": ["read", "write"]}, {"read", "write"}),
        ({"scp": ["read write", "more"]}, {"read", "write", "more"}),
        ({"scp": ["read", None, 1, ["write"], {"write": True}, ""]}, {"read"}),
        ({"scp": []}, set()),
        ({"scope": "read", "scp": ["write"]}, {"read"}),
        ({"scope": "", "scp": ["write"]}, set()),
        ({"scope": [], "scp": "write"}, set()),
        ({"scope": None, "scp": "write"}, {"write"}),
        ({"scope": None, "scp": None}, set()),
        ({"scope": None}, set()),
        ({}, set()),
    ],
)
def test_scopes_come_from_scope_or_scp(verifier, key, given_scopes, expected):
    assert verifier.verify(bearer(key.sign(claims(**given_scopes)))).scopes == expected


@pytest.mark.parametrize(
    ("who", "is_admin"),
    [({"sub": "root"}, True), ({"groups": ["operators"]}, True), ({"sub": "operators", "groups": ["root"]}, False)],
)
def test_an_administrator_is_known_by_any_principal(verifier, key, who, is_admin):
    assert verifier.verify(bearer(key.sign(claims(**who)))).is_admin is is_admin


@pytest.mark.parametrize("aud", [[AUDIENCE, "other"], AUDIENCE])
def test_the_audience_may_be_one_of_several(verifier, key, aud):
    assert verifier.verify(bearer(key.sign(claims(aud=aud)))).user == "user:alice"


def test_clocks_may_differ_by_a_few_seconds(verifier, key):
    now = time.time()
    assert verifier.verify(bearer(key.sign(claims(exp=now - 5, nbf=now + 5)))).user == "user:alice"


def test_the_longest_subject_is_250_bytes(verifier, key):
    assert verifier.verify(bearer(key.sign(claims(sub="ü" * 125)))).user == "user:" + "ü" * 125
    refuse(verifier, bearer(key.sign(claims(sub="ü" * 125 + "x"))))


@pytest.mark.parametrize("exp", [2**63 - 1, 2**53, 9e18])
def test_a_token_may_be_good_for_ever(verifier, key, exp):
    authorization = bearer(key.sign(claims(exp=exp)))
    for _ in range(2):
        assert verifier.verify(authorization).user == "user:alice"


# Tokens that say the wrong thing


@pytest.mark.parametrize(
    "changes",
    [
        *({name: ...} for name in ("sub", "exp", "iss", "aud")),
        *({name: None} for name in ("sub", "exp", "iss", "aud", "nbf")),
        {"iss": "https://other.example"},
        {"iss": [ISSUER]},
        {"iss": ISSUER + "/"},
        {"aud": "other"},
        {"aud": []},
        {"aud": [AUDIENCE, 1]},
        {"aud": {AUDIENCE: True}},
        {"sub": ""},
        {"sub": 7},
        {"sub": ["alice"]},
        {"sub": "a\nb"},
        {"sub": "a\x00"},
        {"sub": "\x9f"},
        {"sub": "\udfff"},
        {"sub": "s" * 251},
        {"exp": "9999999999"},
        {"exp": True},
        {"exp": []},
        {"exp": -1},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": 10**400},
        {"exp": -(10**400)},
        {"exp": 2**63},
        {"exp": 1e300},
        {"exp": float("-inf")},
        {"nbf": float("nan")},
        {"nbf": float("inf")},
        {"nbf": float("-inf")},
        {"nbf": -(10**400)},
        {"iat": 10**400},
        {"iat": -(10**400)},
        {"iat": float("nan")},
        {"iat": float("inf")},
        {"iat": float("-inf")},
        {"nbf": 9999999999},
        {"nbf": "0"},
        {"nbf": True},
        {"nbf": 10**4000},
        {"groups": {"operators": 1}},
        {"groups": 1},
        {"groups": True},
        {"scope": 1},
        {"scope": {"read": True}},
        {"scp": 1},
        {"scp": False},
    ],
    ids=lambda changes: json.dumps(changes, default=lambda _: "absent")[:40],
)
def test_a_claim_that_is_missing_or_wrong_is_refused(verifier, key, changes):
    refuse(verifier, bearer(key.sign(claims(**changes))))


def test_an_expired_token_is_refused_after_the_leeway(verifier, key):
    refuse(verifier, bearer(key.sign(claims(exp=time.time() - 12))))


def test_a_token_of_the_future_is_refused_before_the_leeway(verifier, key):
    refuse(verifier, bearer(key.sign(claims(nbf=time.time() + 30))))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"not json",
        b"\xff\xfe",
        b"[" * 5_000,
        b'{"exp":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        json.dumps(claims()).replace('"exp": ', '"exp": 1e999, "x": ').encode(),
        json.dumps(claims()).replace('"exp": ', '"exp": ' + "9" * 5_000).encode(),
    ],
    ids=lambda payload: payload[:12].decode("latin-1"),
)
def test_a_signed_payload_that_is_no_set_of_claims_is_refused(verifier, key, payload):
    refuse(verifier, bearer(key.sign(payload)))


# What is told


def test_every_refusal_reads_the_same_and_the_reason_is_in_the_log(verifier, key, caplog):
    caplog.set_level(logging.INFO, logger="server.auth")
    forged = key_pair("ES256", key.kid).sign(claims())
    expired = key.sign(claims(exp=1))
    refusals = [refuse(verifier, bearer(token)) for token in (forged, expired, "garbage")]
    assert len({str(refusal) for refusal in refusals}) == 1
    for refusal, record in zip(refusals, caplog.records, strict=True):
        assert record.levelno == logging.INFO
        assert refusal.instance_id in record.getMessage()
    assert "InvalidSignatureError" in caplog.text
    assert "ExpiredSignatureError" in caplog.text
    for token in (forged, expired, "garbage"):
        assert not any(part in caplog.text for part in token.split("."))


def test_a_forged_header_cannot_write_lines_into_the_log(verifier, caplog):
    caplog.set_level(logging.INFO, logger="server.auth")
    refuse(verifier, bearer(assemble({"alg": "ES256", "crit": ["x\nERROR fake" + "x" * 5_000]}, claims(), b"x")))
    [record] = caplog.records
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 400


@pytest.mark.parametrize(("issuer", "audience"), [("", AUDIENCE), (ISSUER, ""), (ISSUER, []), (ISSUER, [AUDIENCE, ""])])
def test_a_verifier_without_issuer_or_audience_is_refused(key, issuer, audience):
    with pytest.raises(ValueError, match="must be named"):
        TokenVerifier(JwksKeySet(lambda: jwks(key)), issuer, audience)
