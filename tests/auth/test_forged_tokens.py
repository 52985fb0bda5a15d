from __future__ import annotations

import json
import re
from typing import Any
from unittest import mock

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth import tokens
from server.auth.keys import MAX_TRIED_KEYS, JwksKeySet
from server.auth.tokens import MAX_AUTHORIZATION_LENGTH, TokenVerifier
from server.core.claims import ClaimRules
from server.core.errors import InvalidCredentials
from tests.auth.forge import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    KeyPair,
    assemble,
    bearer,
    claims,
    jwks,
    key_pair,
    refuse,
    sign_with_secret,
)


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, ["ES256"], {}, 1])
def test_an_unsigned_token_is_refused(verifier, key, alg):
    header = {"alg": alg, "kid": key.kid}
    refuse(verifier, bearer(assemble(header, claims())))
    refuse(verifier, bearer(assemble(header, claims(), b"signature")))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_public_key_is_no_shared_secret(verifier, keys, algorithm):
    key = keys[algorithm]
    raw_jwk = json.dumps(key.jwk).encode()
    for secret in (key.public_pem, key.public_pem.strip(), raw_jwk, key.jwk.get("n", key.jwk.get("x")).encode()):
        refuse(verifier, bearer(sign_with_secret(claims(), secret, key.kid)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_key_under_a_known_id_is_refused(verifier, keys, algorithm):
    refuse(verifier, bearer(key_pair(algorithm, keys[algorithm].kid).sign(claims())))


@pytest.mark.parametrize("own", ALGORITHMS)
@pytest.mark.parametrize("named", ALGORITHMS)
def test_the_header_cannot_choose_another_key_or_algorithm(verifier, keys, own, named):
    if own == named:
        assert verifier.verify(bearer(keys[own].sign(claims())))
    else:
        refuse(verifier, bearer(keys[own].sign(claims(), kid=keys[named].kid)))
        refuse(verifier, bearer(keys[own].sign(claims(), alg=named)))
        refuse(verifier, bearer(keys[own].sign(claims(), alg=named, kid=keys[named].kid)))


@pytest.mark.parametrize("alg", ["RS512", "PS256", "ES384", "HS256"])
def test_a_sibling_of_the_algorithm_is_refused(verifier, keys, alg):
    refuse(verifier, bearer(keys["RS256"].sign(claims(), alg=alg)))


_ODD_IDS = [
    "unknown",
    "",
    "../../etc/passwd",
    "key-RS256\x00",
    None,
    1,
    0.5,
    10**400,
    True,
    False,
    ["key-ES256"],
    [],
    {},
    {"key-ES256": 1},
    "\ud800",
    "k" * 5_000,
]


@pytest.mark.parametrize("kid", _ODD_IDS, ids=lambda kid: ascii(kid)[:20])
def test_an_unknown_or_odd_key_id_is_refused(verifier, key, kid):
    refuse(verifier, bearer(key.sign(claims(), kid=kid)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_without_a_key_id_is_accepted_of_any_key_of_its_algorithm(keys, algorithm):
    another = key_pair(algorithm, kid=f"another-{algorithm}")
    verifier = TokenVerifier(JwksKeySet(lambda: jwks(*keys.values(), another)), ISSUER, AUDIENCE)
    for key in (keys[algorithm], another):
        nameless = KeyPair(algorithm, None, key.private_key)
        assert verifier.verify(bearer(nameless.sign(claims()))).user == "user:alice"
        for other in {*ALGORITHMS, "HS256", "none"} - {algorithm}:
            refuse(verifier, bearer(nameless.sign(claims(), alg=other)))
        refuse(verifier, bearer(nameless.sign(claims(aud="other"))))
    refuse(verifier, bearer(key_pair(algorithm, kid=None).sign(claims())))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_public_key_is_no_shared_secret_for_a_token_without_a_key_id(verifier, keys, algorithm):
    for secret in (keys[algorithm].public_pem, keys[algorithm].public_pem.strip()):
        refuse(verifier, bearer(sign_with_secret(claims(), secret, kid=...)))


def test_a_token_without_a_key_id_is_compared_with_a_bounded_number_of_keys(monkeypatch):
    pairs = [key_pair("EdDSA", kid=f"{number}") for number in range(MAX_TRIED_KEYS + 1)]
    nameless = KeyPair("EdDSA", None, pairs[0].private_key).sign(claims())
    forged = key_pair("EdDSA", kid=None).sign(claims())
    at_most = TokenVerifier(JwksKeySet(lambda: jwks(*pairs[:-1])), ISSUER, AUDIENCE)
    too_many = TokenVerifier(JwksKeySet(lambda: jwks(*pairs)), ISSUER, AUDIENCE)
    decode = mock.Mock(wraps=jwt.decode)
    monkeypatch.setattr(tokens.jwt, "decode", decode)

    assert at_most.verify(bearer(nameless)).user == "user:alice"
    decode.reset_mock()
    refuse(at_most, bearer(forged))
    assert decode.call_count == MAX_TRIED_KEYS
    decode.reset_mock()
    refuse(too_many, bearer(nameless))
    assert decode.call_count == 0
    assert too_many.verify(bearer(pairs[0].sign(claims()))).user == "user:alice"


def test_a_token_without_a_key_id_is_accepted_where_there_is_one_key():
    key = key_pair("EdDSA", kid=None)
    verifier = TokenVerifier(JwksKeySet(lambda: jwks(key)), ISSUER, AUDIENCE)
    assert verifier.verify(bearer(key.sign(claims()))).user == "user:alice"
    refuse(verifier, bearer(key_pair("EdDSA", kid=None).sign(claims())))


@pytest.mark.parametrize("kid", ["a", "", "../../etc/passwd", "\x00"])
def test_the_only_key_serves_tokens_of_any_key_id_if_it_has_none(kid):
    key = key_pair("EdDSA", kid=None)
    verifier = TokenVerifier(JwksKeySet(lambda: jwks(key)), ISSUER, AUDIENCE)
    assert verifier.verify(bearer(key.sign(claims(), kid=kid))).user == "user:alice"
    refuse(verifier, bearer(key_pair("EdDSA", kid).sign(claims())))
    refuse(verifier, bearer(key.sign(claims(), kid=kid, alg="ES256")))
    refuse(verifier, bearer(sign_with_secret(claims(), key.public_pem, kid)))


@pytest.mark.parametrize("name", ["jwk", "jku", "x5c"])
def test_a_key_that_the_token_brings_along_is_not_used(verifier, key, name):
    own = key_pair("ES256", kid=key.kid)
    refuse(verifier, bearer(own.sign(claims(), **{name: own.jwk})))


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": ["b64"], "b64": False}])
def test_a_critical_extension_is_refused(verifier, key, header):
    refuse(verifier, bearer(key.sign(claims(), **header)))


def test_every_cut_of_a_token_is_refused(verifier, key):
    authorization = bearer(key.sign(claims()))
    for length in range(len(authorization)):
        refuse(verifier, authorization[:length])


def test_every_changed_character_is_refused(verifier, key):
    token = key.sign(claims())
    for at, character in enumerate(token):
        refuse(verifier, bearer(token[:at] + ("A" if character != "A" else "B") + token[at + 1 :]))


_MALFORMED = (
    "{}|Basic {}|Bearer{}|Bearer: {}|Bearer\t{}| Bearer {}|Bearer {} |Bearer {}\n|Bearer {}=|Bearer {0} {0}|"
    "Bearer {0},{0}|Bearer {0}.{0}|Bearer .{}|Bearer {}.|Bearer é{}|Béarer {}|Bearer \ud800{}|"
    "Bearer Bearer {}|Bearer ...|Bearer|Bearer |"
)


@pytest.mark.parametrize("around", _MALFORMED.split("|"), ids=ascii)
def test_a_good_token_in_a_malformed_header_is_refused(verifier, key, around):
    refuse(verifier, around.format(key.sign(claims())))


def test_a_header_that_is_too_long_is_refused(verifier, key):
    token = key.sign(claims(padding="x" * MAX_AUTHORIZATION_LENGTH))
    refuse(verifier, bearer(token))


def test_a_deeply_nested_header_is_refused(verifier):
    refuse(verifier, bearer(assemble(b"[" * 5_000, claims(), b"x" * 64)))


# Whatever is sent


@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("latin-1"))))
def test_any_text_is_refused_and_nothing_else_happens(verifier, text):
    refuse(verifier, text)
    refuse(verifier, bearer(text))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(header=st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ"]), _json), signature=st.binary())
def test_any_header_is_refused_and_nothing_else_happens(verifier, header, signature):
    refuse(verifier, bearer(assemble({"alg": "ES256", "kid": "key-ES256"} | header, claims(), signature)))


_claim_names = st.sampled_from(
    ["sub", "exp", "iss", "aud", "nbf", "iat", "jti", "groups", "scope", "scp", "realm_access", "a.b", "a", "client_id"]
)


@given(changes=st.dictionaries(_claim_names, _json))
def test_any_signed_claims_give_a_caller_or_a_refusal(verifier, key, changes):
    try:
        caller = verifier.verify(bearer(key.sign(claims(**changes))))
    except InvalidCredentials:
        return
    assert caller.user == "user:" + changes.get("sub", "alice")
    assert all(0 < len(principal.encode()) <= 255 for principal in caller.principals)


_ODD_PATHS = ClaimRules(
    subject=("a.b.sub", "sub"),
    scopes=("a.b", "realm_access.roles", "__class__", "scope"),
    groups=("a", "a.b", "groups.0", "__proto__.groups", "constructor", "...", ".a", "a."),
)
_names = st.sampled_from(["a", "b", "a.b", "sub", "roles", "", ".", "groups", "0", "__proto__", "__class__"])
_nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)


@given(changes=st.dictionaries(_claim_names | _names, _nested))
def test_any_signed_claims_give_a_caller_or_a_refusal_wherever_they_are_looked_for(keys, key, changes):
    verifier = TokenVerifier(JwksKeySet(lambda: jwks(key)), ISSUER, AUDIENCE, rules=_ODD_PATHS)
    try:
        caller = verifier.verify(bearer(key.sign(claims(**changes))))
    except InvalidCredentials:
        return
    assert caller.user.startswith("user:")
    assert all(principal.startswith("group:") for principal in caller.principals[1:])
    assert all(0 < len(principal.encode()) <= 255 for principal in caller.principals)
    assert all(scope and not re.search(r"\s", scope) for scope in caller.scopes)


# What is large, as far as gRPC would take it


def test_a_token_of_thousands_of_groups_is_accepted(verifier, key):
    groups = [f"{number:x}" for number in range(1_600)]
    caller = verifier.verify(bearer(key.sign(claims(groups=groups))))
    assert caller.principals == ("user:alice", *(f"group:{group}" for group in groups))


@pytest.mark.parametrize("name", ["groups", "scope", "scp", "sub", "aud", "iss", "jti", "padding"])
@pytest.mark.parametrize(
    "value",
    ["x" * 11_000, [[[]]] * 2_000, ["x" * 10_000], 10**4_000, -(10**4_000), {"x": "y" * 10_000}],
    ids=["text", "arrays", "one in an array", "number", "negative number", "object"],
)
def test_a_huge_claim_gives_a_caller_without_it_or_a_refusal(verifier, key, name, value):
    try:
        caller = verifier.verify(bearer(key.sign(claims(**{name: value}))))
    except InvalidCredentials:
        return
    assert caller.principals == ("user:alice",)
    assert not caller.scopes & {"api:models-read", "api:models-write"}


def test_claims_nested_as_deep_as_a_token_can_hold_are_searched_in_bounded_time(key):
    depth = 300
    nested: Any = "deep"
    for _ in range(depth):
        nested = {"a": nested}
    path = ".".join(["a"] * depth)
    for name, expected in ((path, ("group:deep",)), (path + ".a", ()), ("a" + "." * 2_000, ())):
        verifier = TokenVerifier(JwksKeySet(lambda: jwks(key)), ISSUER, AUDIENCE, rules=ClaimRules(groups=(name,)))
        assert verifier.verify(bearer(key.sign(claims(**nested)))).principals == ("user:alice", *expected)
