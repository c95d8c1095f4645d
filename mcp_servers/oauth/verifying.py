"""Verification of access tokens: signed ones (JWT, RFC 9068), and any kind by introspection (RFC 7662).

Both end in the same checks: the issuer, the audience (RFC 8707), the times. A token that an authorization server
issued for another resource is refused, else that resource could replay it here.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import jwt

from mcp_servers.oauth.issuer_requests import IssuerUnavailable, fetch_object
from mcp_servers.oauth.keys import IssuerKeys
from mcp_servers.oauth.protected_resource import ProtectedResource

MAX_TOKEN_CHARS = 16_384
LEEWAY_S = 30.0
"""Difference between the clocks of the two servers."""
MAX_KEPT_ANSWERS = 1_000
KEPT_ANSWER_S = 10.0
"""Seconds that an answer of introspection is used again: a revoked token lives that long."""
_TYPES = (None, "jwt", "at+jwt", "application/at+jwt")
"""Values of the header `typ`; others mark tokens for another use, such as logout tokens."""


class TokenRefused(Exception):
    """A token is not accepted; the message goes to the client and has nothing of the token."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """An accepted token."""

    subject: str
    """User, or the client itself; unique at the issuer."""
    client_id: str
    scopes: tuple[str, ...]
    expires_at: float


class TokenVerifier(Protocol):
    """Verifies access tokens."""

    async def prepare(self) -> None:
        """Fetch what is needed before the first token."""
        ...

    async def verify(self, token: str) -> VerifiedToken:
        """Return an accepted token."""
        ...


def verifier_of(resource: ProtectedResource) -> JWTVerifier | IntrospectionVerifier:
    """Return the verifier that a resource is configured for."""
    return JWTVerifier(resource) if resource.introspection_endpoint is None else IntrospectionVerifier(resource)


class JWTVerifier:
    """Verifies signed tokens with the issuer's keys."""

    def __init__(self, resource: ProtectedResource, *, now: Callable[[], float] = time.time) -> None:
        """Accept tokens for `resource`."""
        self._resource = resource
        self._now = now
        self.keys = IssuerKeys(resource.issuer, resource.jwks_uri)
        """Keys of the issuer."""

    async def prepare(self) -> None:
        """Fetch the keys.

        Raises:
            IssuerUnavailable: they cannot be fetched.
        """
        await self.keys.refresh()

    async def verify(self, token: str) -> VerifiedToken:
        """Return an accepted token.

        Raises:
            TokenRefused: signature, algorithm, issuer, audience or times are wrong.
            IssuerUnavailable: the issuer's keys cannot be fetched.
        """
        if len(token) > MAX_TOKEN_CHARS:
            raise TokenRefused(f"the token has more than {MAX_TOKEN_CHARS} characters")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, RecursionError) as error:
            raise TokenRefused("the token is not a signed JWT") from error
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ")
        if algorithm not in self._resource.algorithms:
            raise TokenRefused("the token's signature algorithm is not accepted")
        if "crit" in header or (kind.lower() if isinstance(kind, str) else kind) not in _TYPES:
            raise TokenRefused("the token is of a kind that is not accepted")
        key = await self.keys.find(key_id if isinstance(key_id, str) else None, algorithm)
        if key is None:
            raise TokenRefused("the token is signed with a key that the issuer does not publish")
        try:
            # Times, issuer and audience are checked below, in the same way as those of introspection.
            off = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
            claims = jwt.decode(token, key, algorithms=[algorithm], options=cast(Any, off))
        except (jwt.PyJWTError, RecursionError) as error:
            raise TokenRefused("the token's signature is not valid") from error
        return checked_claims(claims, self._resource, self._now(), needs_issuer=True)


class IntrospectionVerifier:
    """Asks the authorization server about tokens; each answer is kept for `KEPT_ANSWER_S` seconds."""

    def __init__(self, resource: ProtectedResource, *, now: Callable[[], float] = time.time) -> None:
        """Accept tokens for `resource`, which names the endpoint and credentials."""
        self._resource = resource
        self._now = now
        self._kept: OrderedDict[bytes, tuple[float, VerifiedToken]] = OrderedDict()
        """Accepted tokens by the digest of their text, with the time of the answer."""

    async def prepare(self) -> None:
        """Do nothing: each token is asked about when it comes."""

    async def verify(self, token: str) -> VerifiedToken:
        """Return an accepted token.

        Raises:
            TokenRefused: the authorization server does not know it, or it is for another resource.
            IssuerUnavailable: the endpoint does not answer.
        """
        if len(token) > MAX_TOKEN_CHARS:
            raise TokenRefused(f"the token has more than {MAX_TOKEN_CHARS} characters")
        digest, now = hashlib.sha256(token.encode()).digest(), self._now()
        if (kept := self._kept.get(digest)) is not None and now - kept[0] < KEPT_ANSWER_S:
            if now >= kept[1].expires_at + LEEWAY_S:
                raise TokenRefused("the token has expired")
            return kept[1]
        endpoint, client_id = self._resource.introspection_endpoint, self._resource.client_id
        if endpoint is None or client_id is None:
            raise IssuerUnavailable("the resource has no introspection endpoint.")
        answer = await fetch_object(
            endpoint,
            form={"token": token, "token_type_hint": "access_token"},
            basic=(client_id, self._resource.client_secret or ""),
        )
        if answer.get("active") is not True:
            raise TokenRefused("the token is not active")
        found = checked_claims(answer, self._resource, now, needs_issuer=False)
        self._kept[digest] = (now, found)
        while len(self._kept) > MAX_KEPT_ANSWERS:
            self._kept.popitem(last=False)
        return found


def checked_claims(
    claims: Mapping[str, Any], resource: ProtectedResource, now: float, *, needs_issuer: bool
) -> VerifiedToken:
    """Return an accepted token from its claims.

    Args:
        claims: Claims of a verified signature, or the answer of an introspection endpoint.
        resource: The resource that the token must be for.
        now: Unix time.
        needs_issuer: True if the issuer must be among the claims.

    Raises:
        TokenRefused: a claim is missing or wrong.
    """
    issuer = claims.get("iss")
    if issuer != resource.issuer and (needs_issuer or issuer is not None):
        raise TokenRefused("the token is of another issuer")
    audience = claims.get("aud")
    audiences = cast("list[Any]", audience) if isinstance(audience, list) else [audience]
    if not any(isinstance(each, str) and _is_audience(each, resource) for each in audiences):
        raise TokenRefused("the token is for another resource")
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise TokenRefused("the token has no expiry")
    if now >= expires_at + LEEWAY_S:
        raise TokenRefused("the token has expired")
    if any((at := _time(claims, name)) is not None and now < at - LEEWAY_S for name in ("nbf", "iat")):
        raise TokenRefused("the token is not valid yet")
    client_id = claims.get("client_id", claims.get("azp"))
    subject = claims.get("sub", client_id)
    if not isinstance(subject, str) or not subject:
        raise TokenRefused("the token names neither a user nor a client")
    return VerifiedToken(subject, client_id if isinstance(client_id, str) else "", _scopes(claims), expires_at)


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a time claim; None if it is missing.

    Raises:
        TokenRefused: it is not a number.
    """
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise TokenRefused(f"the token's {name} is not a time")
    return float(value)


def _scopes(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the scopes: `scope` (RFC 9068), or `scp`, a text or a list, as Entra ID and Okta write it."""
    found = claims.get("scope", claims.get("scp", ""))
    names = cast("list[Any]", found) if isinstance(found, list) else str(found).split()
    return tuple(each for each in names if isinstance(each, str))


def _is_audience(given: str, resource: ProtectedResource) -> bool:
    """Return whether an audience is the resource; a URL may have one slash more or less at its end."""
    if resource.audience is not None:
        return given == resource.audience
    return given.removesuffix("/") == resource.url.removesuffix("/")
