"""The issuer's public keys (JWKS, RFC 7517), cached.

A key id that is not known may be a new key, so the keys are fetched again, but not more often than once in
`MIN_REFRESH_S`: anybody can send tokens with invented key ids. After `MAX_AGE_S` they are fetched again in any
case, so that a withdrawn key is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import anyio
import jwt

from mcp_servers.oauth.issuer_requests import IssuerUnavailable, fetch_object, issuer_metadata

MIN_REFRESH_S = 30.0
MAX_AGE_S = 3_600.0
MAX_KEYS = 100
MIN_RSA_BITS = 2_048
"""RFC 7518, section 3.3."""
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""Type of key by the beginning of the algorithm's name."""


class IssuerKeys:
    """The keys of one issuer."""

    def __init__(self, issuer: str, jwks_uri: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Fetch keys from `jwks_uri`, or from the URL that the issuer's metadata names."""
        self._issuer = issuer
        self._jwks_uri = jwks_uri
        self._clock = clock
        self._keys: list[dict[str, Any]] = []
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._lock: anyio.Lock | None = None

    @property
    def jwks_uri(self) -> str | None:
        """URL of the keys, once it is known."""
        return self._jwks_uri

    async def refresh(self) -> None:
        """Fetch the keys.

        Raises:
            IssuerUnavailable: they cannot be fetched, or are not a key set.
        """
        self._tried_at = self._clock()
        if self._jwks_uri is None:
            named: Any = (await issuer_metadata(self._issuer)).get("jwks_uri")
            if not isinstance(named, str) or not _is_same_scheme(named, self._issuer):
                raise IssuerUnavailable(f"the metadata of {self._issuer!r} names no jwks_uri with https.")
            self._jwks_uri = named
        keys: Any = (await fetch_object(self._jwks_uri)).get("keys")
        if not isinstance(keys, list):
            raise IssuerUnavailable(f"{self._jwks_uri} has no list of keys.")
        listed = cast("list[Any]", keys)[:MAX_KEYS]
        self._keys = [cast("dict[str, Any]", key) for key in listed if isinstance(key, dict)]
        self._fetched_at = self._clock()

    async def find(self, key_id: str | None, algorithm: str) -> Any:
        """Return the public key for a token's header; None if the issuer has no such key.

        Raises:
            IssuerUnavailable: no keys are known and none can be fetched.
        """
        key = self._known(key_id, algorithm)
        if (key is not None and not self._is_old()) or not self._may_refresh():
            return self._checked(key)
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:  # one request for all tokens that wait
            if self._may_refresh():
                try:
                    await self.refresh()
                except IssuerUnavailable:
                    if self._fetched_at is None:
                        raise
        return self._checked(self._known(key_id, algorithm))

    def _checked(self, key: Any) -> Any:
        if key is None and self._fetched_at is None:
            raise IssuerUnavailable(f"the keys of {self._issuer!r} could not be fetched yet.")
        return key

    def _is_old(self) -> bool:
        return self._fetched_at is None or self._clock() - self._fetched_at > MAX_AGE_S

    def _may_refresh(self) -> bool:
        return self._tried_at is None or self._clock() - self._tried_at >= MIN_REFRESH_S

    def _known(self, key_id: str | None, algorithm: str) -> Any:
        """Return a usable key; without a key id, the only one that fits the algorithm."""
        fitting = [key for key in self._keys if _fits(key, algorithm) and key_id in (None, key.get("kid"))]
        if not fitting or (key_id is None and len(fitting) > 1):
            return None
        try:
            key = jwt.PyJWK(fitting[0], algorithm=algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError):
            return None
        is_weak = algorithm[:2] in ("RS", "PS") and key.key_size < MIN_RSA_BITS
        return None if is_weak else key


def _fits(key: dict[str, Any], algorithm: str) -> bool:
    """Return whether a key is for signatures with an algorithm. A symmetric key fits none."""
    is_for_signatures = key.get("use") in (None, "sig") and "d" not in key
    return (
        is_for_signatures and key.get("kty") == _KEY_TYPES[algorithm[:2]] and key.get("alg") in (None, algorithm)
    )


def _is_same_scheme(url: str, issuer: str) -> bool:
    """Return whether a URL is https, or http like the issuer, which then is on this machine."""
    return url.startswith("https://") or (url.startswith("http://") and issuer.startswith("http://"))
