"""Where an issuer's tokens say who calls and what for, as the operator tells it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from server.auth.keys import JwksKeySet
from server.auth.tokens import TokenVerifier
from server.core.caller import Caller
from server.core.claims import ClaimRules
from tests.auth.forge import AUDIENCE, ISSUER, KeyPair, bearer, claims, jwks, refuse


@pytest.fixture
def key(keys: dict[str, KeyPair]) -> KeyPair:
    return keys["ES256"]


def verifier_of(key: KeyPair, of: str | list[str] = AUDIENCE, **rules: Any) -> TokenVerifier:
    return TokenVerifier(JwksKeySet(lambda: jwks(key)), ISSUER, of, rules=ClaimRules(**rules))


def caller_of(key: KeyPair, said: dict[str, Any], of: str | list[str] = AUDIENCE, **rules: Any) -> Caller:
    return verifier_of(key, of, **rules).verify(bearer(key.sign(claims(**said))))


# Names and paths


NESTED = {
    "realm_access": {"roles": ["a", "b"]},
    "resource_access": {"reg.example": {"roles": ["c"]}, "x": {"roles": "d"}},
}


@pytest.mark.parametrize(
    ("path", "said", "expected"),
    [
        ("groups", {"groups": ["a"]}, ["a"]),
        ("realm_access.roles", NESTED, ["a", "b"]),
        ("resource_access.x.roles", NESTED, ["d"]),
        ("resource_access.reg.example.roles", NESTED, ["c"]),
        ("kubernetes.io.namespace", {"kubernetes.io": {"namespace": "ml"}}, ["ml"]),
        ("cognito:groups", {"cognito:groups": ["a"]}, ["a"]),
        ("https://example.com/groups", {"https://example.com/groups": ["a"]}, ["a"]),
        # The literal name wins over the path, and the longer name over the shorter.
        ("a.b", {"a.b": ["name"], "a": {"b": ["path"]}}, ["name"]),
        ("a.b", {"a.b": None, "a": {"b": ["path"]}}, ["path"]),
        ("a.b.c", {"a.b": {"c": ["longer"]}, "a": {"b.c": ["shorter"], "b": {"c": ["shortest"]}}}, ["longer"]),
        ("a.b.c", {"a.b": {"x": ["longer"]}, "a": {"b.c": ["shorter"], "b": {"c": ["shortest"]}}}, ["shorter"]),
        # What is not there, or is no object.
        ("realm_access.groups", NESTED, []),
        ("realm_access.roles.0", NESTED, []),
        ("realm_access.roles.__len__", NESTED, []),
        ("groups.0", {"groups": ["a"]}, []),
        ("sub.upper", {}, []),
        ("__class__", {}, []),
        ("__proto__.groups", {"__proto__": {"groups": ["a"]}}, ["a"]),
        ("constructor.prototype", {}, []),
        ("a.b", {"a": None}, []),
        ("a.b", {"a": "b"}, []),
        ("a.b", {"a": {"b": None}}, []),
        (".", {"": {"": ["a"]}}, ["a"]),
    ],
)
def test_a_claim_is_found_by_its_name_or_by_a_path(key, path, said, expected):
    principals = caller_of(key, said, groups=(path,)).principals
    assert principals == ("user:alice", *(f"group:{group}" for group in expected))


def test_a_path_that_ends_at_an_object_is_refused(key):
    refuse(verifier_of(key, groups=("realm_access",)), bearer(key.sign(claims(**NESTED))))


# Several claims


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"scp": "read", "roles": ["write"]}, {"read"}),
        ({"roles": ["read", "write"]}, {"read", "write"}),
        ({"scp": None, "roles": "write"}, {"write"}),
        ({"scp": "", "roles": ["write"]}, set()),
        ({"scp": [], "roles": ["write"]}, set()),
        ({"scope": "read"}, set()),
        ({}, set()),
    ],
)
def test_of_several_claims_with_scopes_the_first_that_is_present_counts(key, said, expected):
    assert caller_of(key, said, scopes=("scp", "roles")).scopes == expected


def test_a_claim_with_scopes_that_does_not_count_may_say_anything(key):
    assert caller_of(key, {"scp": "read", "roles": {"write": 1}}, scopes=("scp", "roles")).scopes == {"read"}
    refuse(verifier_of(key, scopes=("scp", "roles")), bearer(key.sign(claims(roles={"write": 1}))))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"groups": ["b"], "roles": ["a", "b"]}, ["b", "a"]),
        ({"groups": "b", "roles": "a"}, ["b", "a"]),
        ({"groups": None, "roles": ["a"]}, ["a"]),
        ({"groups": [], "roles": ["a"]}, ["a"]),
        ({"roles": ["a"]}, ["a"]),
        ({"group": ["a"]}, []),
    ],
)
def test_of_several_claims_with_groups_all_count(key, said, expected):
    principals = caller_of(key, said, groups=("groups", "roles")).principals
    assert principals == ("user:alice", *(f"group:{group}" for group in expected))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"upn": "jane@example.com", "appid": "x"}, "jane@example.com"),
        ({"appid": "x"}, "x"),
        ({"upn": None, "appid": "x"}, "x"),
        ({"appid": "x", "sub": ...}, "x"),
    ],
)
def test_the_caller_is_the_first_subject_that_is_present(key, said, expected):
    assert caller_of(key, said, subject=("upn", "appid")).user == f"user:{expected}"


@pytest.mark.parametrize(
    "said",
    [{}, {"upn": ""}, {"upn": 1}, {"upn": ["jane"]}, {"upn": {"appid": "x"}}, {"upn": "a\nb"}, {"upn": "u" * 251}],
)
def test_a_token_without_a_subject_is_refused(key, said):
    refuse(verifier_of(key, subject=("upn", "appid")), bearer(key.sign(claims(**said))))
    refuse(verifier_of(key, subject=("upn",)), bearer(key.sign(claims(**said, appid="x"))))


# Scopes that the issuer calls otherwise, or does not have


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"scope": "registry/api:models-read registry/api:models-write"}, {"api:models-read", "api:models-write"}),
        ({"scp": ["registry/api:models-read", "openid"]}, {"api:models-read"}),
        ({"scope": "api:models-write"}, set()),
        ({"scope": "other/api:models-write"}, set()),
        ({"scope": "other/registry/api:models-write"}, set()),
        ({"scope": "registry/registry/api:models-write"}, {"registry/api:models-write"}),
        ({"scope": "REGISTRY/api:models-write"}, set()),
    ],
)
def test_only_scopes_with_the_prefix_count_and_without_it(key, said, expected):
    assert caller_of(key, said, scope_prefix="registry/").scopes == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {"api:models-read"}),
        ({"scope": None}, {"api:models-read"}),
        ({"scope": ""}, set()),
        ({"scp": []}, set()),
        ({"scope": "openid"}, {"openid"}),
        ({"roles": ["api:models-write"]}, {"api:models-read"}),
    ],
)
def test_default_scopes_are_those_of_tokens_that_have_no_claim_with_scopes(key, said, expected):
    assert caller_of(key, said, default_scopes=frozenset({"api:models-read"})).scopes == expected
    assert caller_of(key, said).scopes == expected - {"api:models-read"}


# For whom a token is


@pytest.mark.parametrize("client", ["a-client", ["other", "a-client"]])
def test_another_claim_may_name_the_audience(key, client):
    assert caller_of(key, {"aud": ..., "client_id": client}, "a-client", audience="client_id").user == "user:alice"


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"client_id": None},
        {"client_id": ""},
        {"client_id": "other"},
        {"client_id": ["other"]},
        {"client_id": []},
        {"client_id": [["a-client"]]},
        {"client_id": {"a-client": True}},
        {"client_id": True},
        {"client_id": "a-client,other"},
        {"azp": "a-client"},
    ],
)
def test_a_token_whose_claim_does_not_name_the_audience_is_refused(key, said):
    refuse(verifier_of(key, "a-client", audience="client_id"), bearer(key.sign(claims(aud=..., **said))))


@pytest.mark.parametrize("aud", ["https://other.example", ["other"], "a-client", ["a-client"], {"x": 1}, 1])
def test_a_token_that_has_aud_all_the_same_is_meant_for_that(key, aud):
    refuse(verifier_of(key, "a-client", audience="client_id"), bearer(key.sign(claims(aud=aud, client_id="a-client"))))


def test_the_issuer_is_checked_whatever_claim_names_the_audience(key):
    verifier = verifier_of(key, "a-client", audience="client_id")
    for issuer in (..., "https://other.example"):
        refuse(verifier, bearer(key.sign(claims(aud=..., client_id="a-client", iss=issuer))))


@pytest.mark.parametrize("claim", ["aud", "client_id"])
def test_any_of_several_audiences_will_do(key, claim):
    verifier = verifier_of(key, ["first", "second"], audience=claim)
    for audience in ("first", "second", ["other", "second"]):
        said = claims(**({"aud": ...} | {claim: audience}))
        assert verifier.verify(bearer(key.sign(said))).user == "user:alice"
    for audience in ("third", "first second", ["third"]):
        refuse(verifier, bearer(key.sign(claims(**({"aud": ...} | {claim: audience})))))


# Clocks


@pytest.mark.parametrize("leeway", [0, 60, 300])
def test_clocks_may_differ_by_the_leeway(key, leeway):
    verifier, now = verifier_of(key, leeway=leeway), time.time()
    slack = 30  # A busy machine may be slow.
    if leeway > slack:
        assert verifier.verify(bearer(key.sign(claims(exp=now - leeway + slack)))).user == "user:alice"
        assert verifier.verify(bearer(key.sign(claims(nbf=now + leeway - slack)))).user == "user:alice"
    refuse(verifier, bearer(key.sign(claims(exp=now - leeway - 1))))
    refuse(verifier, bearer(key.sign(claims(nbf=now + leeway + slack))))


@pytest.mark.parametrize(
    "sign", ["\u200b", "\u202e", "\u2066", "\u00ad", "\u00a0", "\u3164", "\u034f", "\ufe0f", "\ue000"], ids=ascii
)
def test_a_name_with_what_is_not_seen_is_no_principal(key, sign):
    for subject in (f"alice{sign}", f"{sign}alice", sign):
        refuse(verifier_of(key), bearer(key.sign(claims(sub=subject))))
    assert caller_of(key, {"groups": [f"a{sign}", "b"]}).principals == ("user:alice", "group:b")
