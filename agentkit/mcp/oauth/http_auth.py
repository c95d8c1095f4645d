"""Tokens on the requests of a connection, and what is done when the server refuses one.

A token goes to the URL of the MCP server and to no other: not to another origin, not to another path after a
redirect. An error never leaves this module as an exception, because the transport of mcp would end the whole
connection with it: it is noted at the sender's `Delivery`, and the sender gets the server's refusal.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx2
from mcp.shared._request_clock import waiting_on_a_person  # mcp's own OAuth client stops its clock with it

from agentkit.errors import MCPConnectionError, UserError
from agentkit.mcp.delivery import delivery
from agentkit.mcp.oauth.challenge import Challenge, bearer_challenge
from agentkit.mcp.oauth.requests import TIMEOUT_S
from agentkit.mcp.oauth.session import OAuthSession
from agentkit.mcp.oauth.urls import origin_of

MAX_ATTEMPTS = 4
"""Requests for one message: the first, after a refresh, after a login, after a login with more scopes."""


class OAuthRequests(httpx2.Auth):
    """Adds the token of a session to the requests of one MCP server."""

    def __init__(self, session: OAuthSession, server_url: str) -> None:
        """Send tokens to `server_url` only."""
        self._session = session
        self._origin = origin_of(server_url)
        self._path = httpx2.URL(server_url).path.rstrip("/")

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send a request with a token, and again with another token if it is refused."""
        if not self._is_for(request.url):
            request.headers.pop("authorization", None)  # httpx copies it to a redirect within the origin
            yield request
            return
        try:
            token = await self._session.access_token()
        except (MCPConnectionError, UserError) as error:
            self._note(error)
            yield request
            return
        for attempt in range(MAX_ATTEMPTS):
            if token is not None:
                request.headers["authorization"] = f"Bearer {token}"
            response = yield request
            challenge = bearer_challenge(response.headers.get_list("www-authenticate"))
            if not _is_refusal(response, challenge):
                self._session.accepted(token)
                return
            if attempt == MAX_ATTEMPTS - 1:
                return
            try:
                with waiting_on_a_person():
                    renew = self._session.renew if response.status_code == 401 else self._session.step_up
                    token = await renew(challenge, token)
            except (MCPConnectionError, UserError) as error:
                self._note(error)
                return
            response.stream = _Discarded(response.stream)

    def _is_for(self, url: httpx2.URL) -> bool:
        return origin_of(str(url)) == self._origin and url.path.rstrip("/") == self._path

    def _note(self, error: Exception) -> None:
        self._session.refusal = error
        if (current := delivery.get()) is not None:
            current.refused = error


async def challenge_of(url: str) -> Challenge:
    """Return the challenge with which an MCP server refuses a first request without a token; it may be empty.

    Raises:
        MCPConnectionError: the server cannot be reached.
    """
    first = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {"accept": "application/json, text/event-stream", "accept-encoding": "identity"}
    try:
        async with (
            httpx2.AsyncClient(timeout=TIMEOUT_S) as http,
            http.stream("POST", url, json=first, headers=headers) as response,
        ):
            return bearer_challenge(response.headers.get_list("www-authenticate"))
    except httpx2.HTTPError as error:
        raise MCPConnectionError(f"MCP server {url!r} cannot be reached: {type(error).__name__}.") from error


def _is_refusal(response: httpx2.Response, challenge: Challenge) -> bool:
    """Return whether another token could help."""
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        return True
    return response.status_code == HTTPStatus.FORBIDDEN and challenge.error == "insufficient_scope"


class _Discarded(httpx2.AsyncByteStream):
    """The body of a refusal, which is not read: it could be endless."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await self._inner.aclose()
        return
        yield b""  # makes this function a generator

    async def aclose(self) -> None:
        await self._inner.aclose()
