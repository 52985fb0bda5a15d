"""Encrypted cursors: where pages end, and what lineages call their versions.

A cursor is an encrypted pair of keys of the database. These are in the order of storing and never change, as pages and
lineages need it; but they count what the whole registry stored, also what the caller may not see. A pair fills one
block of AES: the same pair always looks the same, and different ones look unrelated.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from server.core.errors import CursorUnknown, InvalidPageToken
from server.storage.paging import Position

# Times before 1970 are negative.
_PAIR = struct.Struct(">qQ")
_PLACE = struct.Struct(">Q")
_LINEAGE_PLACE = struct.Struct(">qqq???Q")
# Keys are smaller. Set in positions and not in names, so that no name is taken for a position, and told whose it is.
_IS_POSITION = 2**63
# As AES-GCM has it.
_NONCE_BYTES = 12


class _Sealed:
    """Cursors that cannot be made up, each for one purpose.

    No two are alike, so that those of pages and bookmarks do not tell whether there was anything in between.
    """

    def __init__(self, secret: bytes, purpose: bytes, form: struct.Struct):
        # A key of its own, so that what was made with another one means nothing here.
        self._cipher = AESGCM(hashlib.sha256(purpose + secret).digest())
        self._form = form

    def seal(self, *values: int) -> str:
        """Return the cursor that has these values."""
        nonce = os.urandom(_NONCE_BYTES)
        block = self._cipher.encrypt(nonce, self._form.pack(*values), None)
        return base64.urlsafe_b64encode(nonce + block).decode().rstrip("=")

    def open(self, cursor: str) -> tuple[int, ...] | None:
        """Return the values in a cursor; None if it was not made with this secret for this purpose."""
        try:
            block = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            return self._form.unpack(self._cipher.decrypt(block[:_NONCE_BYTES], block[_NONCE_BYTES:], None))
        except (ValueError, binascii.Error, InvalidTag):
            return None


class _LogCursors:
    """Places in a table that is read in the order of its keys: a key, and a part of what the row of it is called."""

    def __init__(self, secret: bytes, table: bytes):
        self._sealed = _Sealed(secret, table, _PAIR)

    def cursor(self, key: int, name: str) -> str:
        """Return the cursor of a row, whose name ends with a UUID; without a name, of the place before all."""
        return self._sealed.seal(key, _part_of(name))

    def _place(self, cursor: str) -> tuple[int, int] | None:
        """Return the key in a cursor, and the part of the name; None if it was not made with this secret."""
        values = self._sealed.open(cursor)
        return None if values is None else (values[0], values[1])

    @staticmethod
    def is_of(part: int, name: str) -> bool:
        """Whether the part of a name in a cursor is that of a row."""
        return part == _part_of(name)


class EventCursors(_LogCursors):
    """Places in the log of events, whose names are their ids."""

    def __init__(self, secret: bytes):
        super().__init__(secret, b"event cursors")

    def place(self, cursor: str) -> tuple[int, int]:
        """Return the key in a cursor, and the part of the id. Raises CursorUnknown if it was not made with this key."""
        place = self._place(cursor)
        if place is None:
            raise CursorUnknown(cursor=cursor)
        return place


class PromotionCursors(_LogCursors):
    """Places among promotions in the order of their keys; their names are RIDs."""

    def __init__(self, secret: bytes):
        super().__init__(secret, b"promotion cursors")

    def place(self, position: Position) -> tuple[int, int]:
        """Return the key in a position, and the part of the RID. Raises InvalidPageToken as EventCursors does."""
        place = self._place(str(position))
        if place is None:
            raise InvalidPageToken(page_token=str(position))
        return place


class LineagePlace(NamedTuple):
    """A version in a lineage behind which a page can begin, by its key; `depth` promotions below the traced version.

    `is_up` is whether it is a predecessor, or the traced version before those; then `landmark` is the key of one of
    those, or 0. Of others, `is_below_told` is whether all below it is told, and with `is_last` it is known that nothing
    follows once that is told, and what was promoted from the same version.
    """

    key: int
    depth: int = 0
    landmark: int = 0
    is_up: bool = False
    is_below_told: bool = False
    is_last: bool = True


class LineageCursors:
    """Places in the lineage of one version, by its RID; those of another one mean nothing here."""

    def __init__(self, secret: bytes, traced_rid: str):
        self._sealed = _Sealed(secret, b"lineage of " + traced_rid.encode(), _LINEAGE_PLACE)

    def position(self, place: LineagePlace, rid: str) -> str:
        """Return a place, whose version has that RID, as a position."""
        return self._sealed.seal(*place, _part_of(rid))

    def place(self, position: Position, rid_of: Callable[[int], str]) -> LineagePlace:
        """Return the place of a position; `rid_of` is asked for the RID that a key has now, or nothing.

        Raises InvalidPageToken, also where another version has got the key, as in a copy that was restored.
        """
        values = self._sealed.open(str(position))
        if values is None or values[-1] != _part_of(rid_of(values[0])):
            raise InvalidPageToken(page_token=str(position))
        return LineagePlace(*values[:-1])  # type: ignore[arg-type]


def _part_of(name: str) -> int:
    """Return the last 64 bits of the UUID at the end of a name; 0 of none."""
    return int(name.replace("-", "")[-16:] or "0", 16)


class WritePositions:
    """Where changes are stored in the log of the database, which tells how much all write, as callers bring it."""

    def __init__(self, secret: bytes):
        self._sealed = _Sealed(secret, b"write positions", _PLACE)

    def position(self, place: int) -> str:
        """Return a place as a position."""
        return self._sealed.seal(place)

    def place(self, position: str) -> int | None:
        """Return the place of a position; None of what is none of this registry."""
        values = self._sealed.open(position)
        return None if values is None else values[0]


class Cursors:
    """Names and positions under the key of a registry."""

    def __init__(self, secret: bytes):
        # ECB is safe here: each cursor is a single block, and no block has two meanings.
        self._cipher = Cipher(AES(secret), ECB())  # noqa: S305

    def name(self, context: int, key: int) -> str:
        """Return what something is called in a context, and in no other."""
        return self._encrypted(context, [key])[0]

    def position(self, first: int, second: int) -> str:
        """Return two numbers, which say where a page ends, as a position."""
        return self.positions(first, [second])[0]

    def positions(self, first: int, seconds: Sequence[int]) -> list[str]:
        """Return `position(first, second)` for each second."""
        return self._encrypted(first, [second + _IS_POSITION for second in seconds])

    def numbers(self, position: Position) -> tuple[int, int]:
        """Return the numbers of a position; those of one that was made up can be any. Raises InvalidPageToken."""
        text = str(position)
        try:
            block = base64.b64decode(text + "==", altchars=b"-_", validate=True)
            first, second = _PAIR.unpack(self._cipher.decryptor().update(block))
            genuine = second >= _IS_POSITION and self._encrypted(first, [second]) == [text]
        except (ValueError, binascii.Error, struct.error):
            genuine = False
        if not genuine:
            raise InvalidPageToken(page_token=text)
        return first, second - _IS_POSITION

    def _encrypted(self, first: int, seconds: Sequence[int]) -> list[str]:
        # All at once, as ECB has no order of blocks: one takes 2.7 us, which is to begin, and a hundred take 3.1.
        blocks = self._cipher.encryptor().update(b"".join(_PAIR.pack(first, second) for second in seconds))
        each = (blocks[start : start + _PAIR.size] for start in range(0, len(blocks), _PAIR.size))
        return [base64.urlsafe_b64encode(block).decode().rstrip("=") for block in each]
