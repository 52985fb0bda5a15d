"""The caller: what a verified credential says, and all that access decisions look at."""

from __future__ import annotations

from dataclasses import dataclass

# Of `user:<sub>` or `group:<g>`, in UTF-8.
MAX_PRINCIPAL_BYTES = 255


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
