"""A bearer token becomes a Caller, or is refused; why is told to the log alone."""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import suppress
from typing import Any, NamedTuple

import jwt

from server.auth.keys import KeySet
from server.caller import MAX_PRINCIPAL_BYTES, Caller
from server.errors import InvalidCredentials
from server.logs import get_logger

LEEWAY = 10.0  # Seconds that the issuer's clock and ours may differ.
MAX_AUTHORIZATION_LENGTH = 16 * 1024  # What gRPC takes as a call's metadata at the very most.

# Of tokens that need not be verified again, which takes longer than a read does. Then it begins anew.
MAX_REMEMBERED = 4096

_BEARER = re.compile(r"(?i:bearer) +([\w-]+\.[\w-]+\.[\w-]+)", re.ASCII)
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # Control characters, and halves of surrogate pairs.

logger = get_logger(__name__)


class TokenVerifier:
    """Trusts the tokens that an issuer signed for an audience."""

    def __init__(self, keys: KeySet, issuer: str, audience: str, admins: frozenset[str] = frozenset()) -> None:
        """`admins` are principals. Raises ValueError if issuer or audience is empty: they are never left unchecked."""
        if not issuer or not audience:
            raise ValueError("Tokens are checked against an issuer and an audience; both must be named.")
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._admins = admins
        self._verified: dict[bytes, _Verified] = {}

    def verify(self, authorization: str) -> Caller:
        """The caller that an `authorization` header, `Bearer <JWT>`, speaks for. Raises InvalidCredentials."""
        # By its digest, so that no credential stays in memory.
        digest = hashlib.sha256(authorization.encode(errors="surrogatepass")).digest()
        before = self._verified.get(digest)
        # As long as its key is one of the issuer's: one that was withdrawn verifies nothing any more.
        if before is not None and time.time() < before.expires and self._keys.find(before.key_id) is before.key:
            return before.caller
        verified = self._verify(authorization)
        if len(self._verified) >= MAX_REMEMBERED:
            self._verified.clear()
        self._verified[digest] = verified
        return verified.caller

    def _verify(self, authorization: str) -> _Verified:
        try:
            claims, key_id, key = self._claims(_token(authorization))
            principals = _principals(claims)
            caller = Caller(principals, _scopes(claims), is_admin=not self._admins.isdisjoint(principals))
            return _Verified(caller, claims["exp"] + LEEWAY, key_id, key)
        except (jwt.PyJWTError, ValueError) as reason:
            refusal = InvalidCredentials()
            # As a literal and cut, because parts of a forged token may be in it.
            logger.info("Credentials refused: %s %.200a (%s)", type(reason).__name__, str(reason), refusal.instance_id)
            raise refusal from None

    def _claims(self, token: str) -> tuple[dict[str, Any], str | None, jwt.PyJWK]:
        header, _ = token.split(".", 1)
        # Only the header is read before the signature is checked, so the other parts are left out.
        kid = jwt.get_unverified_header(f"{header}..").get("kid")
        key = self._keys.find(kid)
        if key is None:
            raise ValueError("There is no key of the token's kid.")
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=self._issuer,
            audience=self._audience,
            leeway=LEEWAY,
            options={"require": ["sub", "exp", "iss", "aud"]},
        )
        for name in ("exp", "nbf", "iat"):  # PyJWT takes strings and booleans for numbers.
            if type(claims.get(name, 0)) not in (int, float):
                raise ValueError(f"The claim {name} is not a number.")
        return claims, kid, key


class _Verified(NamedTuple):
    """What came of a token: whose it is, until when, and by which key."""

    caller: Caller
    expires: float
    key_id: str | None
    key: jwt.PyJWK


def principal(kind: str, name: str) -> str:
    """`user:<sub>` or `group:<g>`. Raises ValueError for a name that cannot be a principal's."""
    if not name or _NOT_TEXT.search(name):
        raise ValueError(f"The {kind} is empty or not plain text.")
    result = f"{kind}:{name}"
    if len(result.encode()) > MAX_PRINCIPAL_BYTES:
        raise ValueError(f"The {kind} is too long.")
    return result


def _token(authorization: str) -> str:
    if len(authorization) > MAX_AUTHORIZATION_LENGTH:
        raise ValueError("The header is too long.")
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise ValueError("The header is not Bearer and a JWT.")
    return match[1]


def _principals(claims: dict[str, Any]) -> tuple[str, ...]:
    principals = [principal("user", claims["sub"])]
    for group in _strings(claims, "groups"):
        with suppress(ValueError):  # No grant can name it, so it gives nothing.
            principals.append(principal("group", group))
    return tuple(dict.fromkeys(principals))


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """What `scope`, a string, says; without it `scp`, a string or a list of strings."""
    if "scope" not in claims and isinstance(claims.get("scp"), list):
        return frozenset(_strings(claims, "scp"))
    scopes = claims.get("scope", claims.get("scp", ""))
    if not isinstance(scopes, str):
        raise ValueError("The claim with the scopes is not a string.")
    return frozenset(scopes.split())


def _strings(claims: dict[str, Any], name: str) -> list[str]:
    values = claims.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"The claim {name} is not a list of strings.")
    return values
