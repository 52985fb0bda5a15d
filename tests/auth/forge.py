"""An issuer for tests: key pairs, the JWKS that publishes them, and tokens both honest and forged."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from server.auth.tokens import TokenVerifier
from server.core.errors import InvalidCredentials

ISSUER = "https://issuer.example"
AUDIENCE = "modelregistry"
ALGORITHMS = ("RS256", "ES256", "EdDSA")


@dataclass(frozen=True)
class KeyPair:
    """A private key that an issuer signs with, and the id under which it publishes the public one."""

    algorithm: str
    kid: str | None
    private_key: Any

    @property
    def jwk(self) -> dict[str, Any]:
        kind = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[self.algorithm]
        jwk = kind.to_jwk(self.private_key.public_key(), as_dict=True)
        return jwk if self.kid is None else {**jwk, "kid": self.kid}

    @property
    def public_pem(self) -> bytes:
        return self.private_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, payload: dict[str, Any] | bytes, **header: Any) -> str:
        """A token with this key's true signature, whatever else it says, as in `sign(claims(), alg="none")`."""
        known = {"alg": self.algorithm, "typ": "JWT"} | ({} if self.kid is None else {"kid": self.kid})
        signed = assemble(known | header, payload).removesuffix(".").encode()
        signature = jwt.get_algorithm_by_name(self.algorithm).sign(signed, self.private_key)
        return assemble(known | header, payload, signature)


def key_pair(algorithm: str = "ES256", kid: str | None = "key-1", rsa_bits: int = 2048) -> KeyPair:
    """A new key pair each time."""
    match algorithm:
        case "RS256":
            return KeyPair(algorithm, kid, rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits))
        case "ES256":
            return KeyPair(algorithm, kid, ec.generate_private_key(ec.SECP256R1()))
        case "EdDSA":
            return KeyPair(algorithm, kid, ed25519.Ed25519PrivateKey.generate())
    raise ValueError(algorithm)


def jwks(*keys: KeyPair | dict[str, Any]) -> bytes:
    """The document that publishes the keys."""
    return json.dumps({"keys": [key.jwk if isinstance(key, KeyPair) else key for key in keys]}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """What a good token says, but for the changes; `...` takes a claim away, as in `claims(exp=...)`."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600}
    return {name: value for name, value in (good | changes).items() if value is not ...}


def bearer(token: str) -> str:
    return f"Bearer {token}"


def assemble(header: dict[str, Any] | bytes, payload: dict[str, Any] | bytes, signature: bytes = b"") -> str:
    """A token of any parts, unsigned or with any signature."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))


def sign_with_secret(payload: dict[str, Any], secret: bytes, kid: Any = "key-1") -> str:
    """A token with an HS256 signature; forgers use a public key's bytes as the secret. Its kid `...` is none."""
    header = {"alg": "HS256"} | ({} if kid is ... else {"kid": kid})
    signed = assemble(header, payload).removesuffix(".").encode()
    return assemble(header, payload, hmac.digest(secret, signed, hashlib.sha256))


def refuse(verifier: TokenVerifier, authorization: str) -> InvalidCredentials:
    """The refusal of a header, which must come."""
    with pytest.raises(InvalidCredentials) as refused:
        verifier.verify(authorization)
    return refused.value
