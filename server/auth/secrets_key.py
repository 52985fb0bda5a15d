"""The keys under which secrets are stored: in a file, and never in the database.

The file has a line for each key, 32 bytes in Base64. Secrets are encrypted under the first one, and what they are
stored as names the key, so that those of earlier ones are read as long as these are in the file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.auth.key_files import create, warn_if_shared
from server.core.errors import SecretsUnavailable

KEY_FILE = "secrets.key"
KEY_BYTES = 32
# Of the digest of a key, by which what it has encrypted names it.
_ID_BYTES = 8
# As AES-GCM has it.
_NONCE_BYTES = 12

log = logging.getLogger(__name__)


class SecretsKey:
    """Encrypts and decrypts secrets under the keys in a file, which is read each time, so that it can be changed."""

    def __init__(self, path: Path, *, may_create: bool) -> None:
        """Use this file; one that is not there is made for the first secret if it `may_create`."""
        self._path = path
        self._may_create = may_create

    def check(self) -> None:
        """Return if the file has keys. Raises OSError and ValueError, naming the file."""
        _read(self._path)
        warn_if_shared(self._path)

    def seal(self, secret: bytes) -> bytes:
        """Encrypt a secret under the first key. Raises SecretsUnavailable."""
        try:
            if self._may_create and not self._path.exists():
                _create(self._path)
            key = _read(self._path)[0]
        except (OSError, ValueError) as error:
            log.error("secrets cannot be encrypted: %s; see --secrets-key-file", error)
            raise SecretsUnavailable from error
        nonce = os.urandom(_NONCE_BYTES)
        return _id_of(key) + nonce + AESGCM(key).encrypt(nonce, secret, None)

    def unseal(self, sealed: bytes) -> bytes:
        """Decrypt a secret. Raises SecretsUnavailable if the file is not there, or has not its key."""
        key_id, nonce = sealed[:_ID_BYTES], sealed[_ID_BYTES : _ID_BYTES + _NONCE_BYTES]
        try:
            for key in _read(self._path):
                if _id_of(key) == key_id:
                    return AESGCM(key).decrypt(nonce, sealed[_ID_BYTES + _NONCE_BYTES :], None)
            raise ValueError(f"{self._path} has no key {key_id.hex()}")
        except (OSError, ValueError, InvalidTag) as error:
            log.error("a secret cannot be decrypted: %s; see --secrets-key-file", str(error) or "it was altered")
            raise SecretsUnavailable from error


def _id_of(key: bytes) -> bytes:
    return hashlib.sha256(b"the id of " + key).digest()[:_ID_BYTES]


def _read(path: Path) -> list[bytes]:
    """Return the keys of a file, one at least. Raises OSError and ValueError."""
    keys = []
    for line in path.read_bytes().split():
        try:
            keys.append(base64.b64decode(line, validate=True))
        except binascii.Error:
            keys.append(b"")
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(f"{path} has not {KEY_BYTES} bytes in Base64 on each of its lines")
    return keys


def _create(path: Path) -> None:
    """Write a new key; of several processes that do so at the same time, the first one's stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    create(path, base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
