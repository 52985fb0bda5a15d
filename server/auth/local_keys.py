"""The server's own key pair, for when no issuer is configured: it trusts the tokens that it mints itself."""

from __future__ import annotations

import hashlib
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from server.auth.key_files import create, warn_if_shared
from server.auth.keys import JwksKeySet
from server.core.claims import principal
from server.core.config import DEFAULT_JWKS_MAX_AGE_SECONDS

ISSUER = "modelregistry-local"
AUDIENCE = "modelregistry"
ADMIN = "user:admin"

KEY_FILE = "local-key.pem"
ALGORITHM = "EdDSA"


class LocalKeys:
    """An Ed25519 key pair kept in the data folder."""

    def __init__(self, path: Path, *, created: bool) -> None:
        """Use `open`. Raises OSError or ValueError if the file cannot be read or is no such key."""
        self.path = path
        self.created = created
        self._private_key = _read(path)
        self.kid = _jwk(self._private_key)["kid"]

    @classmethod
    def open(cls, data_dir: Path) -> LocalKeys:
        """The folder's key pair; folder and key are created if they are not there, which `created` tells.

        Raises ValueError, naming the file, if it is damaged, and OSError if it cannot be read or written.
        """
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = data_dir / KEY_FILE
        keys = cls(path, created=not path.exists() and _create(path))
        warn_if_shared(path)
        return keys

    def mint(
        self,
        subject: str,
        scopes: Iterable[str],
        groups: Iterable[str] = (),
        ttl: timedelta = timedelta(hours=1),
    ) -> str:
        """A token for `user:<subject>`. Raises ValueError for a subject or group that cannot be a principal."""
        now = int(time.time())
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + int(ttl.total_seconds()),
            "scope": " ".join(scopes),
        }
        if groups := list(groups):
            claims["groups"] = groups
        for kind, name in [("user", subject), *(("group", group) for group in groups)]:
            principal(kind, name)
        return jwt.encode(claims, self._private_key, ALGORITHM, headers={"kid": self.kid})

    def key_set(self, max_age: float = DEFAULT_JWKS_MAX_AGE_SECONDS) -> JwksKeySet:
        """What verifies the minted tokens. It follows the file, so replacing the key there revokes them all."""
        return JwksKeySet(lambda: json.dumps({"keys": [_jwk(_read(self.path))]}), max_age=max_age)


def _create(path: Path) -> bool:
    """Writes a new key, and tells whether it is the one that stays: of two at the same time, the first does."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return create(path, pem)


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path} is not a private key in PEM: restore it, or delete it to get a new one.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} is not an Ed25519 key: restore it, or delete it to get a new one.")
    return key


def _jwk(private_key: Ed25519PrivateKey) -> dict[str, str]:
    """The public key as a JWK, whose id is its thumbprint (RFC 7638)."""
    jwk: dict[str, str] = OKPAlgorithm.to_jwk(private_key.public_key(), as_dict=True)
    canonical = json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()
    thumbprint = urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
    return {**jwk, "kid": thumbprint, "use": "sig", "alg": ALGORITHM}
