"""Verification of bearer tokens: one becomes a Caller, or is refused, for a reason that the log alone tells."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Collection
from typing import Any, NamedTuple

import jwt

from server.auth.keys import JwksKeySet
from server.core.caller import Caller
from server.core.claims import AUDIENCE_CLAIM, ClaimRules
from server.core.errors import InvalidCredentials

MAX_AUTHORIZATION_LENGTH = 16 * 1024  # What gRPC always takes as a call's metadata.

# Since 1970; beyond what 64 bits hold, a number is no time, whatever the issuer means by it.
MAX_SECONDS = 2**63

# How many verified tokens are cached, since to verify one takes longer than a read does. Then the cache is emptied.
MAX_REMEMBERED = 4096

_BEARER = re.compile(r"(?i:bearer) +([\w-]+\.[\w-]+\.[\w-]+)", re.ASCII)

logger = logging.getLogger(__name__)


class TokenVerifier:
    """Trusts the tokens that an issuer signed for an audience."""

    def __init__(
        self,
        keys: JwksKeySet,
        issuer: str,
        audience: str | Collection[str],
        admins: frozenset[str] = frozenset(),
        rules: ClaimRules = ClaimRules(),  # noqa: B008, as it is frozen
    ) -> None:
        """A token names one of the audiences; `admins` are principals.

        Raises ValueError if issuer or audience is empty: they are never left unchecked.
        """
        self._audiences = frozenset([audience] if isinstance(audience, str) else audience)
        if not issuer or not self._audiences or "" in self._audiences:
            raise ValueError("Tokens are checked against an issuer and an audience; both must be named.")
        self._keys = keys
        self._issuer = issuer
        self._admins = admins
        self._rules = rules
        # PyJWT checks that claim, and any other one is checked here.
        self._by_aud = rules.audience == AUDIENCE_CLAIM
        self._verified: dict[bytes, _Verified] = {}

    def cached(self, authorization: str) -> Caller | None:
        """The caller of a token that was verified before and still holds; None if the token is not known.

        It never waits, and does not log. Raises InvalidCredentials for a header that `verify` refuses unread.
        """
        before = self._verified.get(_digest(authorization))
        if before is None:
            if _token(authorization) is None:
                raise InvalidCredentials
            return None
        # As long as its key is one of the issuer's: one that was withdrawn verifies nothing any more.
        keys = self._keys.find_without_refresh(before.header.kid, before.header.alg)
        return before.caller if keys and time.time() < before.expires and before.key in keys else None

    def verify(self, authorization: str) -> Caller:
        """The caller that an `authorization` header, `Bearer <JWT>`, speaks for.

        It may wait for the issuer's keys, and logs why it refuses. Raises InvalidCredentials and KeysUnavailable.
        """
        return self._known(authorization).caller

    def expiry(self, authorization: str) -> float:
        """When the token of such a header expires, in seconds since the epoch. Waits, logs and raises as `verify`."""
        return self._known(authorization).expires

    def caller_of(self, principals: tuple[str, ...], scopes: frozenset[str]) -> Caller:
        """The caller that has these principals: an administrator, if one of them is."""
        return Caller(principals, scopes, is_admin=not self._admins.isdisjoint(principals))

    def _known(self, authorization: str) -> _Verified:
        # By its digest, so that no credential stays in memory.
        digest = _digest(authorization)
        before = self._verified.get(digest)
        if before is not None and time.time() < before.expires and before.key in self._keys_of(before.header):
            return before
        verified = self._verify(authorization)
        if len(self._verified) >= MAX_REMEMBERED:
            self._verified.clear()
        self._verified[digest] = verified
        return verified

    def _verify(self, authorization: str) -> _Verified:
        try:
            token = _token(authorization)
            if token is None:
                raise ValueError("The header is not Bearer and a JWT, or too long.")
            header = _header(token)
            claims, key = self._claims(token, header)
            principals = self._rules.principals_of(claims)
            scopes = self._rules.scopes_of(claims)
            return _Verified(self.caller_of(principals, scopes), claims["exp"] + self._rules.leeway, header, key)
        except (jwt.PyJWTError, ValueError) as reason:
            refusal = InvalidCredentials()
            # As a literal and cut, because parts of a forged token may be in it.
            logger.info("Credentials refused: %s %.200a (%s)", type(reason).__name__, str(reason), refusal.instance_id)
            raise refusal from None

    def _claims(self, token: str, header: _Header) -> tuple[dict[str, Any], jwt.PyJWK]:
        """Return what a token says, and the key that signed it."""
        keys = self._keys_of(header)
        if not keys:
            raise ValueError("There is no key of the token's kid and alg.")
        for key in keys:
            try:
                claims = self._signed_claims(token, key)
            except jwt.InvalidSignatureError:
                continue
            if not self._by_aud:
                if claims.get(AUDIENCE_CLAIM) is not None:
                    raise ValueError("The token has an aud, and tokens of this issuer have none.")
                if not self._rules.is_for(claims, self._audiences):
                    raise ValueError(f"The claim {self._rules.audience} does not name the audience.")
            for name in ("exp", "nbf", "iat"):
                if not _is_time(claims.get(name, 0)):
                    raise ValueError(f"The claim {name} is no time.")
            return claims, key
        raise jwt.InvalidSignatureError("No key of the token's kid and alg has signed it.")

    def _signed_claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=self._issuer,
            # Without an audience, PyJWT refuses a token that has an `aud`.
            audience=self._audiences if self._by_aud else None,
            leeway=self._rules.leeway,
            options={"require": ["exp", "iss", *(["aud"] if self._by_aud else [])]},
        )
        return claims

    def _keys_of(self, header: _Header) -> tuple[jwt.PyJWK, ...]:
        return self._keys.find(header.kid, header.alg)


class _Header(NamedTuple):
    """What a token says of the key that signed it."""

    kid: str | None
    alg: str


class _Verified(NamedTuple):
    """The outcome of verifying a token: its caller, its end, and the key that signed it."""

    caller: Caller
    expires: float
    header: _Header
    key: jwt.PyJWK


def _is_time(value: Any) -> bool:
    """Whether it is a number that any clock can show; PyJWT takes strings and booleans for numbers, too."""
    return type(value) in (int, float) and abs(value) < MAX_SECONDS


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode(errors="surrogatepass")).digest()


def _token(authorization: str) -> str | None:
    """The token of a header; None if it cannot be one."""
    match = _BEARER.fullmatch(authorization) if len(authorization) <= MAX_AUTHORIZATION_LENGTH else None
    return match[1] if match else None


def _header(token: str) -> _Header:
    # Only the header is read before the signature is checked, so the other parts are left out.
    header, _ = token.split(".", 1)
    said = jwt.get_unverified_header(f"{header}..")
    if not isinstance(said.get("alg"), str):
        raise ValueError("The token's alg is not a string.")
    return _Header(said.get("kid"), said["alg"])
