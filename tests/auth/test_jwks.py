from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from server.auth.keys import JwksKeySet
from tests.auth.forge import ALGORITHMS, jwks, key_pair


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_is_bound_to_the_algorithm_of_its_type(algorithm):
    found = JwksKeySet(lambda: jwks(key_pair(algorithm, "a"))).find("a")
    assert found is not None
    assert found.algorithm_name == algorithm


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
    "no object": "key",
    "null": None,
}


@pytest.mark.parametrize("jwk", UNUSABLE.values(), ids=UNUSABLE)
def test_a_key_that_cannot_be_used_is_left_out(jwk):
    keys = JwksKeySet(lambda: jwks(jwk, key_pair("EdDSA", "good")))
    assert keys.find("odd") is None
    assert keys.find("good") is not None
    assert keys.find(None) is keys.find("good")


def test_a_key_that_is_said_to_be_for_signatures_is_used():
    keys = JwksKeySet(lambda: jwks(_EC | {"use": "sig", "alg": "ES256", "key_ops": ["verify"]}))
    assert keys.find("odd") is not None


def test_without_an_id_only_the_single_key_of_a_set_is_found():
    assert JwksKeySet(lambda: jwks(key_pair(kid="a"))).find(None) is not None
    assert JwksKeySet(lambda: jwks(key_pair(kid="a"), key_pair(kid="b"))).find(None) is None


def test_an_id_that_two_keys_share_finds_neither():
    assert JwksKeySet(lambda: jwks(key_pair(kid="a"), key_pair(kid="a"))).find("a") is None


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"\xff", b"[" * 100_000, jwks(UNUSABLE["symmetric"])],
    ids=lambda document: ascii(document[:20]),
)
def test_a_document_without_usable_keys_is_refused_at_first(document):
    with pytest.raises(ValueError, match="JWKS"):
        JwksKeySet(lambda: document)
