"""Requests for metadata and to authorization servers: checked URLs, bounded bodies, few redirects.

The server's metadata decides where they go, and it is untrusted. A request leaves only for a URL that
`checked_url` admits. A server on the public internet cannot send the client to this machine or into its network:
the addresses of the name must be public then. The check comes before the connection, so a name may change in
between (DNS rebinding); TLS then fails, because the internal service has no certificate for that name, and plain
http is for loopback alone.

A GET follows redirects within its origin. A POST carries secrets and follows none.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urljoin

import anyio
import httpx2

from agentkit.mcp.message_bounds import n_containers
from agentkit.mcp.oauth.urls import UntrustedURL, checked_url, is_loopback, origin_of
from mcp_servers.addresses import is_public

MAX_BODY_BYTES = 256 << 10
"""Largest document of an authorization server; metadata has a few KiB."""
MAX_BODY_CONTAINERS = 5_000
TIMEOUT_S = 20.0
"""Seconds for one request with its redirects."""
MAX_REDIRECTS = 3


class OAuthError(Exception):
    """An authorization server or its metadata cannot be used; the message has no secret."""


class ServerUnavailable(OAuthError):
    """A server could not be reached or failed; the same request may succeed later."""


class Answer:
    """Status and JSON object of an answer."""

    def __init__(self, url: str, status: int, document: dict[str, Any] | None) -> None:
        """Store an answer; `document` is None if its body is not a JSON object."""
        self.url, self.status, self.document = url, status, document

    @property
    def error(self) -> str:
        """Error code of the answer (RFC 6749, section 5.2), safe to print; "" if it has none."""
        code: Any = (self.document or {}).get("error")
        return code[:100] if isinstance(code, str) and code.isascii() and code.isprintable() else ""


class Requests:
    """Requests on behalf of one MCP server."""

    def __init__(self, http: httpx2.AsyncClient, server_url: str) -> None:
        """Send with `http` what the MCP server at `server_url` makes necessary."""
        self._http = http
        self._server_url = server_url
        self._checked: set[str] = set()

    async def get(self, url: str, name: str) -> Answer:
        """Request a document.

        Raises:
            OAuthError: the URL is not allowed, or the answer too large.
            ServerUnavailable: there is no answer.
        """
        with _TimeLimit(url):
            for _ in range(MAX_REDIRECTS + 1):
                answer, location = await self._send("GET", url, name)
                if location is None:
                    return answer
                if origin_of(location) != origin_of(url):
                    raise OAuthError(f"{name} at {url} redirects to another origin, which is not followed.")
                url = location
        raise OAuthError(f"{name} at {url} redirects more than {MAX_REDIRECTS} times.")

    async def post(
        self,
        url: str,
        name: str,
        *,
        form: Mapping[str, str] | None = None,
        document: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a form, or else a JSON document.

        Raises:
            OAuthError: the URL is not allowed, or the answer too large or a redirect.
            ServerUnavailable: there is no answer.
        """
        with _TimeLimit(url):
            body: dict[str, Any] = {"data": dict(form)} if form is not None else {"json": document}
            answer, location = await self._send("POST", url, name, headers=headers, **body)
        if location is not None:
            raise OAuthError(f"{name} at {url} answers with a redirect, which is not followed with secrets.")
        return answer

    async def _send(
        self, method: str, url: str, name: str, *, headers: Mapping[str, str] | None = None, **body: Any
    ) -> tuple[Answer, str | None]:
        """Send one request; return the answer, and the URL of a redirect."""
        try:
            await self._check(url, name)
        except UntrustedURL as error:
            raise OAuthError(str(error)) from error
        request = self._http.build_request(
            method,
            url,
            headers={"accept": "application/json", "accept-encoding": "identity", **(headers or {})},
            **body,
        )
        try:
            response = await self._http.send(request, stream=True, follow_redirects=False)
            try:
                if response.has_redirect_location:
                    return Answer(url, response.status_code, None), urljoin(url, response.headers["location"])
                return Answer(url, response.status_code, _object(await _body(response, name))), None
            finally:
                await response.aclose()
        except httpx2.HTTPError as error:
            # The text of an error can repeat a URL, never a body or a header.
            raise ServerUnavailable(f"{name} at {url} cannot be reached: {type(error).__name__}.") from error

    async def _check(self, url: str, name: str) -> None:
        """Check a URL, and the addresses of its host.

        Raises:
            UntrustedURL: it must not be requested.
        """
        host = checked_url(url, name).hostname or ""
        server = checked_url(self._server_url, "MCP server URL").hostname or ""
        if host in self._checked or host.lower() == server.lower():
            return
        if is_loopback(server):
            pass  # a server of this machine may name services of this machine and its network
        elif is_loopback(host):
            raise UntrustedURL(f"{name}={url!r} is on this machine, but the MCP server is not.")
        elif not _goes_through_proxy(url) and await _is_internal(host) and not await _is_internal(server):
            raise UntrustedURL(f"{name}={url!r} is in a private network, but the MCP server is not.")
        self._checked.add(host)


@asynccontextmanager
async def open_requests(server_url: str) -> AsyncGenerator[Requests]:
    """Yield the requests for one MCP server; no connection outlives them."""
    timeout = httpx2.Timeout(TIMEOUT_S)
    async with httpx2.AsyncClient(timeout=timeout, headers={"user-agent": "agentkit"}) as http:
        yield Requests(http, server_url)


class _TimeLimit:
    """Replace the time-out of a block by an error that names the URL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._scope = anyio.move_on_after(TIMEOUT_S)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        suppressed = self._scope.__exit__(*error)
        if self._scope.cancelled_caught:
            raise ServerUnavailable(f"{self._url} did not answer within {TIMEOUT_S:g} s.")
        return suppressed


async def _body(response: httpx2.Response, name: str) -> bytes:
    """Read a body up to the limits."""
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise OAuthError(f"{name} is compressed, which was not requested.")
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise OAuthError(f"{name} has more than {MAX_BODY_BYTES >> 10} KiB.")
    if n_containers(bytes(body)) > MAX_BODY_CONTAINERS:
        raise OAuthError(f"{name} has more than {MAX_BODY_CONTAINERS:,} objects and lists.")
    return bytes(body)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", document) if isinstance(document, dict) else None


def _goes_through_proxy(url: str) -> bool:
    """Return whether a proxy of the environment resolves the name; the client's own look-up says nothing then."""
    scheme, host, _ = origin_of(url)
    proxies = urllib.request.getproxies()
    return (scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(host)


async def _is_internal(host: str) -> bool:
    """Return whether a host has an address that is not on the public internet.

    Raises:
        UntrustedURL: it has no address.
    """
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UntrustedURL(f"the host {host!r} has no address.") from error
    addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    return not all(is_public(address) for address in addresses)


def is_success(status: int) -> bool:
    """Return whether a status is 200 or 201, which authorization servers use alike."""
    return status in (HTTPStatus.OK, HTTPStatus.CREATED)
