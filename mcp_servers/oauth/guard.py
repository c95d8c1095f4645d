"""ASGI middleware that admits requests with an accepted access token, and says where others get one.

A refusal is 401 with the URL of the resource's metadata, or 403 with the scopes that are missing (MCP 2025-11-25,
authorization; RFC 6750, RFC 9728). The metadata is answered without a token. If the authorization server cannot be
asked the answer is 503: a request is never admitted unverified.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from mcp_servers.oauth.issuer_requests import IssuerUnavailable
from mcp_servers.oauth.protected_resource import WELL_KNOWN, ProtectedResource
from mcp_servers.oauth.verifying import TokenRefused, TokenVerifier, VerifiedToken

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)


class AccessRefused(Exception):
    """A request without sufficient access: status and value of `WWW-Authenticate`."""

    def __init__(self, status: int, challenge: str | None, message: str) -> None:
        """Store the answer."""
        super().__init__(message)
        self.status, self.challenge = status, challenge


class RequireOAuth:
    """Guards an application with the tokens of an authorization server."""

    def __init__(self, app: ASGIApp, resource: ProtectedResource, verifier: TokenVerifier) -> None:
        """Guard `app`, whose clients need tokens for `resource`."""
        self._app = app
        self._resource = resource
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a connection; the application gets its user in `scope["user"]`."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        if scope["method"] == "GET" and scope["path"] in (self._resource.metadata_path, WELL_KNOWN):
            await _answer(send, 200, json.dumps(self._resource.metadata()).encode(), b"application/json")
            return
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        try:
            token = await admitted(self._resource, self._verifier, values)
        except AccessRefused as refused:
            await _answer(send, refused.status, str(refused).encode(), b"text/plain", refused.challenge)
            return
        await self._app({**scope, "user": _user(token)}, receive, send)


async def admitted(resource: ProtectedResource, verifier: TokenVerifier, headers: list[bytes]) -> VerifiedToken:
    """Return the token of a request, from the values of its `Authorization` headers.

    Raises:
        AccessRefused: there is none, it is not accepted, its scopes do not suffice, or it cannot be verified.
    """
    scheme, _, text = headers[0].partition(b" ") if len(headers) == 1 else (b"", b"", b"")
    if scheme.lower() != b"bearer" or not text:
        raise AccessRefused(401, resource.challenge(), "Bearer token required")
    try:
        token = await verifier.verify(text.strip().decode("ascii"))
    except (TokenRefused, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, TokenRefused) else "the token is not ASCII"
        raise AccessRefused(401, resource.challenge("invalid_token", reason), reason) from error
    except IssuerUnavailable as error:
        logger.warning("tokens cannot be verified: %s", error)
        raise AccessRefused(503, None, "the authorization server cannot be asked; try again later") from error
    if missing := [scope for scope in resource.scopes if scope not in token.scopes]:
        reason = f"the token lacks the scope {missing[0]}"
        raise AccessRefused(403, resource.challenge("insufficient_scope", reason), reason)
    return token


def _user(token: VerifiedToken) -> object:
    """Return the user as mcp knows it: a session belongs to the user that began it."""
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken

    return AuthenticatedUser(AccessToken(token="", client_id=owner_of(token), scopes=list(token.scopes)))


def owner_of(token: VerifiedToken) -> str:
    """Return one name for user and client: a user's two clients have sessions of their own."""
    return json.dumps([token.subject, token.client_id])


async def _answer(send: Send, status: int, body: bytes, kind: bytes, challenge: str | None = None) -> None:
    headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
    if challenge is not None:
        headers.append((b"www-authenticate", challenge.encode("ascii")))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
