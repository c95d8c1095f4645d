"""An authorization server that others made (node-oidc-provider), its login pages, and an MCP server behind it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from mcp.server import MCPServer

from mcp_servers.oauth.guard import RequireOAuth
from mcp_servers.oauth.protected_resource import ProtectedResource
from mcp_servers.oauth.verifying import TokenRefused, VerifiedToken, verifier_of
from tests.agentkit.mcp.conftest import serving

MODULES = Path(sys.prefix) / "conformance/node_modules"
PROGRAM = Path(__file__).with_name("authorization_server.mjs")
SCOPES = ("mcp:read",)
needs_provider = pytest.mark.skipif(
    not (MODULES / "oidc-provider").exists(), reason="node-oidc-provider needs npm: make test installs it"
)


@contextmanager
def authorization_server(ttl_s: int = 600, kind: str = "jwt") -> Iterator[str]:
    """Run node-oidc-provider; yield its issuer."""
    process = subprocess.Popen(
        [str(MODULES / ".bin/node"), str(PROGRAM), str(MODULES), str(ttl_s), kind],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        yield next(line.strip() for line in lines if line.startswith("http"))
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


class Person:
    """Follow the pages of node-oidc-provider like somebody with a browser: log in, and agree."""

    def __init__(self, *, agrees: bool = True) -> None:
        self._agrees = agrees
        self.urls: list[str] = []
        """Authorization URLs that were shown."""

    async def __call__(self, url: str) -> None:
        """Log in at a URL, up to the page that the client itself serves."""
        self.urls.append(url)
        async with httpx.AsyncClient(follow_redirects=True) as browser:
            page = await browser.get(url)
            while (form := re.search(r'<form[^>]* action="([^"]+)"', page.text)) is not None:
                if not self._agrees:
                    abort = re.search(r'href="([^"]+/abort)"', page.text)
                    assert abort is not None, page.text
                    page = await browser.get(urljoin(str(page.url), abort[1]))
                    continue
                prompt = re.search(r'name="prompt" value="(\w+)"', page.text)
                assert prompt is not None, page.text
                fields = {"prompt": prompt[1], "login": "alice", "password": "of-a-test"}
                page = await browser.post(urljoin(str(page.url), form[1]), data=fields)
            page.raise_for_status()


class Picky:
    """A verifier that also refuses the tokens that a test names."""

    def __init__(self, resource: ProtectedResource) -> None:
        self._inner = verifier_of(resource)
        self.refused: set[str] = set()
        self.seen: list[str] = []
        """Tokens in the order in which they came."""

    async def prepare(self) -> None:
        """Fetch the keys."""
        await self._inner.prepare()

    async def verify(self, token: str) -> VerifiedToken:
        """Return an accepted token."""
        self.seen.append(token)
        if token in self.refused:
            raise TokenRefused("the token has expired")
        return await self._inner.verify(token)


class GuardedServer:
    """An MCP server with the tool `add`, behind an authorization server. An ASGI application."""

    def __init__(self, issuer: str, path: str = "/mcp", **options: Any) -> None:
        """Accept the tokens of `issuer`; the URL is set once the port is known."""
        self._issuer, self._path, self._options = issuer, path, {"scopes": SCOPES, **options}
        self.verifier: Picky = None  # type: ignore[assignment]
        self.requests: list[tuple[str, str, bool]] = []
        """Method, path, and whether a token came, of each request."""
        server = MCPServer("adder", version="1")

        @server.tool()
        async def add(a: int, b: int) -> int:
            """Add two integers."""
            return a + b

        self._app: Any = server.streamable_http_app(streamable_http_path=path)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve it; yield its URL."""
        with serving(self) as url:
            url = url.removesuffix("/mcp") + self._path
            resource = ProtectedResource(url, self._issuer, **self._options)
            self.verifier = Picky(resource)
            self._app = RequireOAuth(self._app, resource, self.verifier)
            yield url

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a connection."""
        if scope["type"] == "http":
            has_token = any(name == b"authorization" for name, _ in scope["headers"])
            self.requests.append((scope["method"], scope["path"], has_token))
        await self._app(scope, receive, send)
