"""What lineages call their versions, and where their pages end: keys of the database, encrypted.

The keys are in the order of storing and never change, as a lineage needs them; but they count what the whole registry
stored, also what the caller may not see. Pairs of them fill one block of AES, so that the same pair always looks the
same, and different ones look unrelated.
"""

from __future__ import annotations

import base64
import binascii
import struct

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from server.errors import InvalidPageToken

_PAIR = struct.Struct(">QQ")
# Keys are smaller. With it a position is never a node_id, which would say whose.
_POSITION = 2**63


class NodeIds:
    """The names of the versions in the lineage of one of them."""

    def __init__(self, secret: bytes, traced: int):
        # One block at a time, and none twice with another meaning: here nothing is left of what ECB is known for.
        self._cipher = Cipher(AES(secret), ECB())  # noqa: S305
        self._traced = traced

    def node_id(self, key: int) -> str:
        """Return what the version with this key is called."""
        return self._encrypted(self._traced, key)

    def position(self, last: int, bound: int) -> str:
        """Return where a page ends: the key of its last version, and the largest one that the first page knew."""
        return self._encrypted(last, bound + _POSITION)

    def last_and_bound(self, position: str) -> tuple[int, int]:
        """Return what a position was made of. Raises InvalidPageToken if it cannot be one."""
        try:
            block = base64.b64decode(position + "==", altchars=b"-_", validate=True)
            last, bound = _PAIR.unpack(self._cipher.decryptor().update(block))
            genuine = last < _POSITION <= bound
        except (ValueError, binascii.Error, struct.error):
            genuine = False
        if not genuine:
            raise InvalidPageToken(page_token=position)
        return last, bound - _POSITION

    def _encrypted(self, first: int, second: int) -> str:
        block = self._cipher.encryptor().update(_PAIR.pack(first, second))
        return base64.urlsafe_b64encode(block).decode().rstrip("=")
