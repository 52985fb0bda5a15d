"""The claims of a verified token: its subject, groups and scopes, under the names that an issuer gives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from server.core.caller import MAX_PRINCIPAL_BYTES, invisible_character

LEEWAY = 10  # Seconds that the issuer's clock and ours may differ.
MAX_LEEWAY = 300

# The one that PyJWT checks.
AUDIENCE_CLAIM = "aud"


@dataclass(frozen=True, kw_only=True)
class ClaimRules:
    """The claims in which an issuer's tokens have what. Each is a name, or a dotted path into objects.

    A claim with scopes or groups is a string or an array; what in an array is not a string is left out, and null is
    absent.
    """

    # The caller is the first of these that is present.
    subject: tuple[str, ...] = ("sub",)
    audience: str = AUDIENCE_CLAIM
    # The first that is present counts: scopes limit a token, and adding them up would lift the limit.
    scopes: tuple[str, ...] = ("scope", "scp")
    # If not empty, scopes count only if they begin with it, and without it.
    scope_prefix: str = ""
    # Of tokens that have none of the claims with scopes.
    default_scopes: frozenset[str] = frozenset()
    # All count.
    groups: tuple[str, ...] = ("groups",)
    leeway: int = LEEWAY

    def principals_of(self, claims: dict[str, Any]) -> tuple[str, ...]:
        """Return `user:<subject>`, and `group:<g>` for each group that a grant can name.

        Raises ValueError without a subject that can be a principal, and for groups that are no string and no array.
        """
        subject = next((value for _, value in _present(claims, self.subject)), None)
        if not isinstance(subject, str):
            raise ValueError(f"The claim {' or '.join(self.subject)} is absent or no string.")
        principals = [principal("user", subject)]
        for name, value in _present(claims, self.groups):
            for group in _strings(value, name):
                with suppress(ValueError):  # No grant can name it, so it gives nothing.
                    principals.append(principal("group", group))
        return tuple(dict.fromkeys(principals))

    def scopes_of(self, claims: dict[str, Any]) -> frozenset[str]:
        """Return what the token may be used for. Raises ValueError for scopes that are no string and no array."""
        for name, value in _present(claims, self.scopes):
            scopes = " ".join(_strings(value, name)).split()
            prefix = self.scope_prefix
            return frozenset(scope.removeprefix(prefix) for scope in scopes if scope.startswith(prefix))
        return self.default_scopes

    def is_for(self, claims: dict[str, Any], audiences: frozenset[str]) -> bool:
        """Whether the claim with the audience names one of these. Raises ValueError if it is no string and no array."""
        named = find(claims, self.audience)
        return named is not None and not audiences.isdisjoint(_strings(named, self.audience))


def find(claims: Any, path: str) -> Any:
    """What a claim says; None if it is absent or null.

    Names may have dots in them, so of several ways to read a path the one with the longest names is taken.
    """
    if not isinstance(claims, dict):
        return None
    value = claims.get(path)
    dot = path.rfind(".")
    while value is None and dot >= 0:
        value = find(claims.get(path[:dot]), path[dot + 1 :])
        dot = path.rfind(".", 0, dot)
    return value


def principal(kind: str, name: str) -> str:
    """`user:<sub>` or `group:<g>`. Raises ValueError for a name that cannot be a principal's."""
    if not name:
        raise ValueError(f"The {kind} is empty.")
    if (invisible := invisible_character(name)) is not None:
        raise ValueError(f"The {kind} has U+{ord(invisible):04X} in it, which is not seen or taken for a blank.")
    result = f"{kind}:{name}"
    if len(result.encode()) > MAX_PRINCIPAL_BYTES:
        raise ValueError(f"The {kind} is too long.")
    return result


def _present(claims: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Each of the claims that is there, with its name."""
    return ((name, value) for name in names if (value := find(claims, name)) is not None)


def _strings(value: Any, name: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [each for each in value if isinstance(each, str)]
    raise ValueError(f"The claim {name} is neither a string nor an array.")
