"""Options of `serve` that say which issuer's tokens are trusted, and where these have what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from server.cli.options import option, url_option
from server.cli.output import fail
from server.core.claims import MAX_LEEWAY
from server.core.permissions import SCOPES

JwksFile = Annotated[Path | None, option("--jwks-file", "The keys of the tokens' issuer.", metavar="FILE")]
JwksUrl = Annotated[str | None, url_option("--jwks-url", "Where the keys of the tokens' issuer are.")]
Issuer = Annotated[str | None, option("--issuer", "The `iss` that tokens must have.", metavar="ISS")]
Audience = Annotated[
    list[str] | None,
    option("--audience", "The `aud` that tokens must have; may be repeated, then one of these.", metavar="AUD"),
]
AudienceClaim = Annotated[
    str,
    option("--audience-claim", "Where tokens that have no `aud` say for whom they are.", metavar="CLAIM"),
]
SubjectClaim = Annotated[
    list[str] | None,
    option(
        "--subject-claim",
        "Where tokens say who calls, by default `sub`; may be repeated, then the first that is present counts.",
        metavar="CLAIM",
    ),
]
ScopeClaim = Annotated[
    list[str] | None,
    option(
        "--scope-claim",
        "Where tokens have their scopes, by default `scope` and `scp`; may be repeated, then the first that is present"
        " counts.",
        metavar="CLAIM",
    ),
]
ScopePrefix = Annotated[
    str,
    option("--scope-prefix", "Only scopes that begin with it count, and without it.", metavar="PREFIX"),
]
DefaultScope = Annotated[
    list[str] | None,
    option(
        "--default-scope",
        f"What a token without any claim of scopes may be used for, {' or '.join(SCOPES)}; may be repeated; by default"
        " nothing.",
        metavar="SCOPE",
    ),
]
GroupsClaim = Annotated[
    list[str] | None,
    option(
        "--groups-claim",
        "Where tokens have the caller's groups, by default `groups`; may be repeated, then all count.",
        metavar="CLAIM",
    ),
]
Leeway = Annotated[
    int,
    option("--leeway", f"How far the issuer's clock may be off; at most {MAX_LEEWAY}.", metavar="SECONDS"),
]


def known_scopes(flag: str, scopes: Sequence[str] | None) -> Sequence[str]:
    """Return the scopes that an option gives. Fails if one of them is no RPC's."""
    if unknown := set(scopes or ()) - set(SCOPES):
        fail(f"{flag}: {', '.join(sorted(unknown))} is not one of {', '.join(SCOPES)}")
    return scopes or ()
