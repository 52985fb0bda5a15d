from __future__ import annotations

import logging
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from server.auth.keys import MAX_TRIED_KEYS, JwksKeySet
from tests.auth.forge import ALGORITHMS, jwks, key_pair


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_is_bound_to_the_algorithm_of_its_type(algorithm):
    keys = JwksKeySet(lambda: jwks(key_pair(algorithm, "a")))
    for kid in ("a", None):
        assert [key.algorithm_name for key in keys.find(kid, algorithm)] == [algorithm]
        assert not any(keys.find(kid, other) for other in (*ALGORITHMS, "HS256", "none", "") if other != algorithm)


_EC = key_pair("ES256", "odd").jwk
_RSA = key_pair("RS256", "odd").jwk
UNUSABLE: dict[str, Any] = {
    "symmetric": {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "odd"},
    "symmetric named ES256": {"kty": "oct", "k": "c2VjcmV0", "kid": "odd", "alg": "ES256"},
    "for encryption": _EC | {"use": "enc"},
    "for wrapping": _EC | {"key_ops": ["wrapKey"]},
    "short RSA": key_pair("RS256", "odd", rsa_bits=1024).jwk,
    "RSA for another algorithm": _RSA | {"alg": "RS512"},
    "RSA named HS256": _RSA | {"alg": "HS256"},
    "P-384": ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True) | {"kid": "odd"},
    "Ed448": OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key(), as_dict=True) | {"kid": "odd"},
    "private": ECAlgorithm.to_jwk(key_pair("ES256").private_key, as_dict=True) | {"kid": "odd"},
    "off the curve": _EC | {"x": _EC["y"]},
    "incomplete": {"kty": "EC", "crv": "P-256", "kid": "odd"},
    "no base64": _EC | {"x": "!"},
    "numbers for text": _EC | {"x": 1, "y": 2},
    "lists for text": {"kty": ["EC"], "crv": [], "kid": []},
    "number for kid": _EC | {"kid": 1},
    "fraction for kid": _EC | {"kid": 1.5},
    "huge number for kid": _EC | {"kid": 10**400},
    "no number for kid": _EC | {"kid": float("nan")},
    "boolean for kid": _EC | {"kid": True},
    "list for kid": _EC | {"kid": ["odd"]},
    "empty list for kid": _EC | {"kid": []},
    "object for kid": _EC | {"kid": {"odd": "odd"}},
    "no object": "key",
    "null": None,
}


@pytest.mark.parametrize("jwk", UNUSABLE.values(), ids=UNUSABLE)
def test_a_key_that_cannot_be_used_is_left_out(jwk):
    keys = JwksKeySet(lambda: jwks(jwk, key_pair("EdDSA", "good")))
    assert not keys.find("odd", "ES256")
    assert not keys.find("odd", "RS256")
    assert keys.find("good", "EdDSA")
    assert keys.find(None, "EdDSA") == keys.find("good", "EdDSA")


def test_a_key_that_is_said_to_be_for_signatures_is_used():
    keys = JwksKeySet(lambda: jwks(_EC | {"use": "sig", "alg": "ES256", "key_ops": ["verify"]}))
    assert keys.find("odd", "ES256")


def test_without_an_id_the_keys_of_the_algorithm_are_found_in_their_order():
    first, second, other = key_pair(kid="a"), key_pair(kid=None), key_pair("EdDSA", kid="c")
    keys = JwksKeySet(lambda: jwks(first, other, second))
    assert [key.key_id for key in keys.find(None, "ES256")] == ["a", None]
    assert [key.key_id for key in keys.find(None, "EdDSA")] == ["c"]
    assert keys.find(None, "RS256") == ()


def test_the_only_key_is_found_by_any_id_if_it_has_none():
    key = key_pair(kid=None)
    without = JwksKeySet(lambda: jwks(key))
    assert without.find("a", "ES256") == without.find("", "ES256") == without.find(None, "ES256")
    assert len(without.find("a", "ES256")) == 1
    assert not without.find("a", "EdDSA")
    assert not JwksKeySet(lambda: jwks(key_pair(kid="b"))).find("a", "ES256")
    assert not JwksKeySet(lambda: jwks(key_pair(kid=None), key_pair(kid=None))).find("a", "ES256")


@pytest.mark.parametrize("kid", ["a", None])
@pytest.mark.parametrize("more", [{}, {"alg": "ES256"}, {"use": "sig", "x5t": "abc"}])
def test_the_same_key_twice_is_one_key(kid, more, caplog):
    key = key_pair(kid=kid)
    keys = JwksKeySet(lambda: jwks(key, key.jwk | more))
    assert len(keys.find("a", "ES256")) == len(keys.find(None, "ES256")) == 1
    assert caplog.records == []


def test_an_id_that_two_keys_share_finds_neither_and_is_warned_about(caplog):
    keys = JwksKeySet(lambda: jwks(key_pair(kid="a"), key_pair(kid="a"), key_pair(kid="b")))
    assert not keys.find("a", "ES256")
    assert [key.key_id for key in keys.find(None, "ES256")] == ["b"]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "2 keys for ES256 have the kid 'a'" in record.getMessage()


def test_keys_of_two_algorithms_may_share_an_id(caplog):
    keys = JwksKeySet(lambda: jwks(key_pair("ES256", "a"), key_pair("EdDSA", "a")))
    for algorithm in ("ES256", "EdDSA"):
        assert [key.algorithm_name for key in keys.find("a", algorithm)] == [algorithm]
    assert caplog.records == []


def test_a_set_whose_keys_no_look_up_finds_is_refused_at_first():
    with pytest.raises(ValueError, match="2 keys for ES256 have the kid 'a': none of them is used"):
        JwksKeySet(lambda: jwks(key_pair(kid="a"), key_pair(kid="a")))
    many = [key_pair(kid=None) for _ in range(MAX_TRIED_KEYS + 1)]
    with pytest.raises(ValueError, match=f"{len(many)} keys without kid are not used"):
        JwksKeySet(lambda: jwks(*many))


def test_no_more_keys_are_tried_than_the_bound(caplog):
    many = [key_pair("EdDSA", kid=f"{number}") for number in range(MAX_TRIED_KEYS)]
    keys = JwksKeySet(lambda: jwks(*many))
    assert len(keys.find(None, "EdDSA")) == MAX_TRIED_KEYS

    more = JwksKeySet(lambda: jwks(*many, key_pair("EdDSA", kid="more"), key_pair("ES256", kid="other")))
    assert not more.find(None, "EdDSA")
    assert more.find("more", "EdDSA")
    assert more.find(None, "ES256")
    assert caplog.records == []


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"\xff", b"[" * 100_000, jwks(UNUSABLE["symmetric"])],
    ids=lambda document: ascii(document[:20]),
)
def test_a_document_without_usable_keys_is_refused_at_first(document):
    with pytest.raises(ValueError, match="JWKS"):
        JwksKeySet(lambda: document)
