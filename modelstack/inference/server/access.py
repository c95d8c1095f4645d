"""Who may ask a server."""

from __future__ import annotations

import hmac

from starlette.requests import Request

from modelstack.inference.server.errors import ApiError

OPEN_PATHS = frozenset({"/health"})
"""Paths that need no key."""


def check_key(request: Request, key: str | None) -> None:
    """Refuse a request without the key, in `Authorization: Bearer` or Anthropic's `x-api-key`.

    Without a key, requests of web pages are refused: any page that is open on this machine could send them.

    Raises:
        ApiError: The key is missing or wrong, or a web page asks a server without a key.
    """
    if key is None:
        if "origin" in request.headers:
            message = f"a web page ({request.headers['origin']}) may ask only a server with a key"
            raise ApiError(403, message, None, "origin_not_allowed")
        return
    if request.url.path in OPEN_PATHS:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    if not hmac.compare_digest(given.encode(), key.encode()):
        message = "the key is missing or wrong; send it as 'Authorization: Bearer KEY'"
        raise ApiError(401, message, None, "invalid_api_key")
