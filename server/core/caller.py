"""The caller: what a verified credential says, and all that access decisions look at."""

from __future__ import annotations

from dataclasses import dataclass

# Of `user:<sub>` or `group:<g>`, in UTF-8.
MAX_PRINCIPAL_BYTES = 255

# What `str.isprintable` takes for a sign that is seen, and fonts show as nothing: those of Unicode's
# Default_Ignorable_Code_Point that are letters and marks (fillers of Hangul, vowels of Khmer, selectors of variants),
# and a blank of Braille.
_UNSEEN = frozenset(
    map(
        chr,
        [
            0x034F,
            *(0x115F, 0x1160, 0x3164, 0xFFA0),
            *(0x17B4, 0x17B5),
            *(0x180B, 0x180C, 0x180D, 0x180F),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
            0x2800,
        ],
    )
)


@dataclass(frozen=True)
class Caller:
    """A caller with a verified credential.

    `principals` are `user:<sub>` first, then `group:<g>` for each group; an administrator may do everything.
    """

    principals: tuple[str, ...]
    scopes: frozenset[str] = frozenset()
    is_admin: bool = False

    @property
    def user(self) -> str:
        """The principal that the records name, `user:<sub>`."""
        return self.principals[0]


def invisible_character(name: str) -> str | None:
    """Return the first character of a name that is not seen, turns others around or can be taken for a blank; or None.

    Two names that differ in such characters alone are one to the eye of who gives a role to one of them.
    """
    # Not printable are the categories Cc, Cf, Cn, Co, Cs, Zl, Zp and Zs, but for the blank itself.
    return next((sign for sign in name if sign in _UNSEEN or not sign.isprintable()), None)
