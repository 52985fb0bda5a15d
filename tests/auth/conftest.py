from __future__ import annotations

import pytest

from server.auth.keys import JwksKeySet
from server.auth.tokens import TokenVerifier
from tests.auth.forge import ALGORITHMS, AUDIENCE, ISSUER, KeyPair, jwks, key_pair


@pytest.fixture(scope="module")
def keys() -> dict[str, KeyPair]:
    return {algorithm: key_pair(algorithm, kid=f"key-{algorithm}") for algorithm in ALGORITHMS}


@pytest.fixture(scope="module")
def key(keys: dict[str, KeyPair]) -> KeyPair:
    return keys["ES256"]


@pytest.fixture(scope="module")
def verifier(keys: dict[str, KeyPair]) -> TokenVerifier:
    key_set = JwksKeySet(lambda: jwks(*keys.values()))
    return TokenVerifier(key_set, ISSUER, AUDIENCE, admins=frozenset({"user:root", "group:operators"}))
