"""Encrypted cursors: where pages end, and what lineages call their versions.

A cursor is an encrypted pair of keys of the database. These are in the order of storing and never change, as pages and
lineages need it; but they count what the whole registry stored, also what the caller may not see. A pair fills one
block of AES: the same pair always looks the same, and different ones look unrelated.
"""

from __future__ import annotations

import base64
import binascii
import struct

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from server.core.errors import InvalidPageToken
from server.storage.paging import Position

# Times before 1970 are negative.
_PAIR = struct.Struct(">qQ")
# Keys are smaller. Set in positions and not in names, so that no name is taken for a position, and told whose it is.
_IS_POSITION = 2**63


class Cursors:
    """Names and positions under the key of a registry."""

    def __init__(self, secret: bytes):
        # ECB is safe here: each cursor is a single block, and no block has two meanings.
        self._cipher = Cipher(AES(secret), ECB())  # noqa: S305

    def name(self, context: int, key: int) -> str:
        """Return what something is called in a context, and in no other."""
        return self._encrypted(context, key)

    def position(self, first: int, second: int) -> str:
        """Return two numbers, which say where a page ends, as a position."""
        return self._encrypted(first, second + _IS_POSITION)

    def numbers(self, position: Position) -> tuple[int, int]:
        """Return the numbers of a position; those of one that was made up can be any. Raises InvalidPageToken."""
        text = str(position)
        try:
            block = base64.b64decode(text + "==", altchars=b"-_", validate=True)
            first, second = _PAIR.unpack(self._cipher.decryptor().update(block))
            genuine = second >= _IS_POSITION and self._encrypted(first, second) == text
        except (ValueError, binascii.Error, struct.error):
            genuine = False
        if not genuine:
            raise InvalidPageToken(page_token=text)
        return first, second - _IS_POSITION

    def _encrypted(self, first: int, second: int) -> str:
        block = self._cipher.encryptor().update(_PAIR.pack(first, second))
        return base64.urlsafe_b64encode(block).decode().rstrip("=")
