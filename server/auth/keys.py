"""The keys that verify tokens: a JWKS in a file or at a URL, cached and refreshed; they expire where that fails."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from http.client import HTTPException, HTTPMessage
from importlib.metadata import version
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from server.core.config import DEFAULT_JWKS_MAX_AGE_SECONDS, JWKS_REFRESH_SECONDS
from server.core.errors import KeysUnavailable

# Gives the JWKS document; raises OSError or ValueError if it cannot.
Loader = Callable[[], bytes | str]

REFRESH_SECONDS = JWKS_REFRESH_SECONDS  # Seconds after which keys are asked for again, and withdrawn ones stop working.
MIN_REFRESH_INTERVAL = 30.0  # Seconds; whatever the tokens name, the issuer is asked no more often.
# How old keys are, in seconds, when a refresh that fails is warned of again, and how much older each further time.
WARNING_AGE = 900.0
WARNING_INTERVAL = 3600.0
FETCH_TIMEOUT = 5.0  # Seconds, for the connection and for all of the document.
PATIENCE = 1.0  # Seconds that a call waits for a refresh.
MAX_WAITERS = 2  # Fewer than the threads that verify tokens, so that others are verified meanwhile.
MAX_JWKS_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16
MIN_RSA_BITS = 2048
MAX_TRIED_KEYS = 8  # For a token without kid; each takes a millisecond if the token is large.

logger = logging.getLogger(__name__)


class JwksKeySet:
    """The keys of a JWKS, loaded at once and refreshed when a token names an unknown one or when they are old.

    A refresh runs in a thread of its own, for which few calls wait, and not for long: made-up key ids delay no other
    call, however slowly the issuer answers. Keys that could not be refreshed for `max_age` seconds let no caller in.
    """

    def __init__(
        self,
        load: Loader,
        clock: Callable[[], float] = time.monotonic,
        max_age: float = DEFAULT_JWKS_MAX_AGE_SECONDS,
    ) -> None:
        """Raises ValueError if the keys cannot be loaded, or none of them can ever be found."""
        self._load = load
        self._clock = clock
        self._max_age = max_age
        self._lock = threading.Lock()
        self._refreshed = threading.Event()
        self._refreshed.set()
        self._waiters = threading.Semaphore(MAX_WAITERS)
        self._attempted_at = -math.inf
        self._loaded_at = clock()
        self._next_warning_age = 0.0
        self._stopping = threading.Event()
        try:
            self._keys = _Index(parse_jwks(load()))
        except (OSError, ValueError) as error:
            raise ValueError(f"The JWKS cannot be loaded: {error}") from error
        if not self._keys:
            usable = "RS256 (from 2048 bits), ES256 and EdDSA (Ed25519) are"
            raise ValueError(" ".join([f"The JWKS has no usable key: {usable}.", *self._keys.problems]))
        self._keys.warn_of_problems()

    @property
    def loaded_at(self) -> float:
        """When these keys were the issuer's, by the clock."""
        return self._loaded_at

    def start(self) -> None:
        """Refresh old keys from now on also while no token asks for them, until `stop`."""
        threading.Thread(target=self._keep_fresh, name="jwks-age", daemon=True).start()

    def stop(self) -> None:
        """Refresh keys only for tokens that ask for them."""
        self._stopping.set()

    def find(self, kid: str | None, algorithm: str) -> tuple[jwt.PyJWK, ...]:
        """The keys that may have signed a token, each bound to the algorithm; none if there is none.

        For a kid that is one key, without a kid all of the algorithm, if they are at most 8. A key without a kid that
        is the only one of its set is found by any. Raises KeysUnavailable if they are too old to tell.
        """
        keys = self._keys.find(kid, algorithm)
        unknown = kid is not None and not keys
        if unknown or self._age > REFRESH_SECONDS:
            self._await_refresh(unknown)
            keys = self._keys.find(kid, algorithm)
        if self._age > self._max_age:
            raise KeysUnavailable
        return keys

    def find_without_refresh(self, kid: str | None, algorithm: str) -> tuple[jwt.PyJWK, ...] | None:
        """What `find` returns, without waiting; None if it would refresh the keys, or raise."""
        age = self._age
        if age > self._max_age or (age > REFRESH_SECONDS and self._may_refresh()):
            return None
        return self._keys.find(kid, algorithm)

    @property
    def _age(self) -> float:
        return self._clock() - self._loaded_at

    def _keep_fresh(self) -> None:
        while not self._stopping.wait(MIN_REFRESH_INTERVAL):
            if self._age > REFRESH_SECONDS:
                self._begin_refresh()

    def _may_refresh(self) -> bool:
        return self._refreshed.is_set() and self._clock() - self._attempted_at >= MIN_REFRESH_INTERVAL

    def _begin_refresh(self) -> bool:
        """Start a refresh, and return whether one was due."""
        with self._lock:
            due = self._may_refresh()
            if due:
                self._attempted_at = self._clock()
                self._refreshed.clear()
                try:
                    threading.Thread(target=self._refresh, name="jwks", daemon=True).start()
                except RuntimeError:  # No thread is to be had just now.
                    self._refreshed.set()
        return due

    def _await_refresh(self, unknown: bool) -> None:
        """Start a refresh if one is due; wait a little for it, or for one that runs if the key is unknown."""
        due = self._begin_refresh()
        # But few: made-up key ids must not keep all threads waiting.
        if (due or unknown) and self._waiters.acquire(blocking=False):
            try:
                self._refreshed.wait(PATIENCE)
            finally:
                self._waiters.release()

    def _refresh(self) -> None:
        try:
            keys = _Index(parse_jwks(self._load()), self._keys)
            if keys.problems != self._keys.problems:
                keys.warn_of_problems()
            self._keys = keys
            self._loaded_at = self._clock()
            self._next_warning_age = 0.0
        except (OSError, ValueError) as error:
            self._warn(error)
        finally:
            self._refreshed.set()

    def _warn(self, error: Exception) -> None:
        """Log that a refresh failed: the first time, when the keys get old, then hourly, and when they are too old."""
        age = self._age
        if age < self._next_warning_age:
            return
        if age > self._max_age:
            logger.error("The JWKS cannot be refreshed for %.0f s, so no token is let in until it can: %s", age, error)
        else:
            left = self._max_age - age
            text = "The JWKS cannot be refreshed, so the keys at hand stay, %.0f s old, for %.0f s more: %s"
            logger.warning(text, age, left, error)
        following = WARNING_AGE if age < WARNING_AGE else age + WARNING_INTERVAL
        self._next_warning_age = min(following, self._max_age) if age < self._max_age else following


class _Index:
    """The keys of a set as they are looked up, and what is wrong with the others."""

    def __init__(self, keys: Iterable[jwt.PyJWK], before: _Index | None = None) -> None:
        """Keys of `before` that are there again stay the same objects, by which verified tokens are compared."""
        self.problems: list[str] = []
        self._by_id: dict[tuple[str, str], tuple[jwt.PyJWK, ...]] = {}
        self._for_tokens_without_id: dict[str, tuple[jwt.PyJWK, ...]] = {}
        of_id: dict[tuple[str | None, str], list[jwt.PyJWK]] = defaultdict(list)
        of_algorithm: dict[str, list[jwt.PyJWK]] = defaultdict(list)
        # The same key under the same id, for the same algorithm, is one key, however often it is in the set.
        self._distinct = {(key.key_id, key.algorithm_name, _public_bytes(key)): key for key in keys}
        if before is not None:
            self._distinct = {each: before._distinct.get(each, key) for each, key in self._distinct.items()}
        for key in self._distinct.values():
            of_id[key.key_id, key.algorithm_name].append(key)
        for (kid, algorithm), same in of_id.items():
            if kid and len(same) > 1:
                self.problems.append(
                    f"{len(same)} keys for {algorithm} have the kid {kid!r:.100}: none of them is used."
                )
                continue
            of_algorithm[algorithm] += same
            if kid:
                self._by_id[kid, algorithm] = tuple(same)
        for algorithm, fitting in of_algorithm.items():
            if len(fitting) <= MAX_TRIED_KEYS:
                self._for_tokens_without_id[algorithm] = tuple(fitting)
            elif without := [key for key in fitting if not key.key_id]:
                self.problems.append(
                    f"{len(without)} keys without kid are not used: {len(fitting)} are for {algorithm}, and no more"
                    f" than {MAX_TRIED_KEYS} are tried for a token."
                )
        self._serves_any_id = len(self._distinct) == 1 and not next(iter(self._distinct.values())).key_id

    def find(self, kid: str | None, algorithm: str) -> tuple[jwt.PyJWK, ...]:
        """The keys that may have signed a token with this kid and algorithm."""
        if kid is None or self._serves_any_id:
            return self._for_tokens_without_id.get(algorithm, ())
        return self._by_id.get((kid, algorithm), ())

    def __bool__(self) -> bool:
        return bool(self._by_id or self._for_tokens_without_id)

    def warn_of_problems(self) -> None:
        """Tell the log why tokens of some keys are refused."""
        for problem in self.problems:
            logger.warning("Of the JWKS, %s", problem)


def _public_bytes(key: jwt.PyJWK) -> bytes:
    """The key itself, however its JWK spells it."""
    der: bytes = key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def jwks_file(path: Path) -> Loader:
    """Loads a JWKS from a file, read anew each time."""

    def load() -> bytes:
        with path.open("rb") as file:
            return _bounded(file)

    return load


def jwks_url(url: str) -> Loader:
    """Loads a JWKS over HTTP(S), from that very URL: a redirect fails. Raises ValueError for any other kind of URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("A JWKS URL starts with https:// or http:// and names a host.")
    if "@" in parts.netloc:
        raise ValueError("A JWKS URL has no user and no password: keys that verify are public.")
    opener = build_opener(_NoRedirects)
    opener.addheaders = [
        # Firewalls refuse Python's own name.
        ("User-Agent", f"modelregistry/{version('modelregistry')}"),
        # The second is the type's proper name, and all that Kubernetes answers to: otherwise it says 406.
        ("Accept", "application/json, application/jwk-set+json"),
    ]

    def load() -> bytes:
        try:
            with opener.open(url, timeout=FETCH_TIMEOUT) as response:
                return _bounded(response)
        except (OSError, HTTPException) as error:  # These do not name the URL.
            raise OSError(f"{url}: {error}") from error

    return load


class _NoRedirects(HTTPRedirectHandler):
    """Keys come from where the operator said, so no answer can point to plain HTTP or to another host."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _bounded(source: BufferedIOBase) -> bytes:
    deadline = time.monotonic() + FETCH_TIMEOUT
    document = b""
    while chunk := source.read1(CHUNK_BYTES):
        document += chunk
        if len(document) > MAX_JWKS_BYTES:
            raise ValueError(f"The document is larger than {MAX_JWKS_BYTES} bytes.")
        if time.monotonic() > deadline:
            raise OSError(f"The document did not arrive within {FETCH_TIMEOUT} seconds.")
    return document


def parse_jwks(document: bytes | str) -> tuple[jwt.PyJWK, ...]:
    """The usable keys of a JWKS; the others are left out. Raises ValueError if the document is not a JWKS."""
    try:
        jwks = json.loads(document)
    except RecursionError as error:
        raise ValueError("The document is nested too deep.") from error
    if not isinstance(jwks, dict) or not isinstance(jwks.get("keys"), list):
        raise ValueError("The document is not a JWKS: an object with a list of keys.")
    keys = []
    for number, jwk in enumerate(jwks["keys"]):
        key = _usable(jwk)
        if key is None:
            logger.info("Key %d of the JWKS is left out: it is no public key for RS256, ES256 or EdDSA.", number)
        else:
            keys.append(key)
    return tuple(keys)


def _usable(jwk: Any) -> jwt.PyJWK | None:
    """A public signing key, bound to the algorithm that follows from its type; what a token says cannot change it."""
    match jwk:
        case {"d": _}:
            return None  # A private key: others can sign with it too.
        case {"kid": kid} if kid is not None and not isinstance(kid, str):
            return None  # No token can name it.
        case {"key_ops": list(operations)} if "verify" not in operations:
            return None
        case {"kty": "RSA"}:
            algorithm = "RS256"
        case {"kty": "EC", "crv": "P-256"}:
            algorithm = "ES256"
        case {"kty": "OKP", "crv": "Ed25519"}:
            algorithm = "EdDSA"
        case _:
            return None
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm)
    except jwt.PyJWTError:
        return None
    return None if algorithm == "RS256" and key.key.key_size < MIN_RSA_BITS else key
