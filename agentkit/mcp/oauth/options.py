"""Options of an OAuth client, as plain data.

No person is asked unless `on_authorize` is given: an agent in a server must not open a browser. Without it a
missing or rejected login is `MCPAuthorizationRequired`, which names `agentkit mcp login`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from agentkit.errors import UserError
from agentkit.mcp.oauth.storage import TokenStorage
from agentkit.mcp.oauth.urls import UntrustedURL, checked_url

OnAuthorize = Callable[[str], Awaitable[str | None]]
"""Shows the authorization URL to the person. Returns None to wait for the browser on the loopback port, or the
whole URL to which the authorization server sent the browser, for a browser on another machine."""

LOGIN_TIMEOUT_S = 300.0
"""Default number of seconds for a person to log in: long enough for a second factor."""


@dataclass(frozen=True, slots=True)
class OAuth:
    """OAuth for one MCP server: `MCPToolset.http(url, auth=OAuth())`."""

    client_name: str = "agentkit"
    """Name that the authorization server shows to the person."""
    scopes: tuple[str, ...] | None = None
    """Scopes to request; None: the scopes that the server names."""
    client_id: str | None = None
    """Id of a client that is registered at the authorization server already; None: one is registered."""
    client_secret: str | None = field(default=None, repr=False)
    """Secret of that client."""
    private_key: str | None = field(default=None, repr=False)
    """PEM private key of that client, instead of a secret (`private_key_jwt`, RFC 7523)."""
    issuer: str | None = None
    """The only authorization server that may be used, by its issuer; None: the one that the MCP server names
    first, and from then on only that one."""
    client_metadata_url: str | None = None
    """URL of a client id metadata document, used as client id where the authorization server supports it."""
    grant: Literal["authorization_code", "client_credentials"] = "authorization_code"
    """"client_credentials" logs the client in by itself, without a person."""
    redirect_port: int = 0
    """Port on 127.0.0.1 to which the browser returns; 0: a free one."""
    on_authorize: OnAuthorize | None = field(default=None, repr=False)
    """Asks the person to log in, for example `open_browser`; None: nobody is asked."""
    timeout_s: float = LOGIN_TIMEOUT_S
    """Seconds for the person to log in."""
    storage: TokenStorage | None = field(default=None, repr=False)
    """Store of the tokens; None: the system's keyring, else files that only this user can read."""
    account: str = ""
    """Distinguishes several users of one server; tokens of one account are not used for another."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: options contradict each other, or a URL has a form that is not allowed.
        """
        _check_scopes(self.scopes)
        self._check_client()
        if not 0 <= self.redirect_port <= 65_535:
            raise UserError(f"redirect_port={self.redirect_port}: a port is 0 to 65535; 0 takes a free one.")
        if not self.timeout_s > 0:
            raise UserError(f"timeout_s={self.timeout_s:g}: give a positive number of seconds.")
        if self.issuer is not None:
            checked_url(self.issuer, "issuer", error=UserError)

    def _check_client(self) -> None:
        if self.client_id is None and (self.client_secret is not None or self.private_key is not None):
            raise UserError("client_secret and private_key belong to a client_id; give it, too.")
        if self.client_secret is not None and self.private_key is not None:
            raise UserError("give either client_secret or private_key: a client has one way to prove itself.")
        if self.client_id is not None and self.client_metadata_url is not None:
            raise UserError("give either client_id or client_metadata_url: the URL is itself the client id.")
        if self.grant == "client_credentials" and self.client_secret is None and self.private_key is None:
            raise UserError('grant="client_credentials" needs client_id with client_secret or private_key.')
        if self.client_metadata_url is not None:
            checked_url(self.client_metadata_url, "client_metadata_url", error=UserError)
            parts = urlsplit(self.client_metadata_url)
            if parts.scheme != "https" or parts.path in ("", "/"):
                raise UserError(
                    f"client_metadata_url={self.client_metadata_url!r} must be an https URL with a path, "
                    f"for example https://example.com/client.json."
                )


def _check_scopes(scopes: tuple[str, ...] | None) -> None:
    if isinstance(scopes, str):
        raise UserError(f"scopes={scopes!r} is one string; give a tuple of names: scopes=({scopes!r},).")
    for scope in scopes or ():
        if not scope or not scope.isascii() or not scope.isprintable() or set(scope) & set(' "\\'):
            raise UserError(f"scopes={scope!r}: a scope is printable ASCII without spaces, quotes, backslashes.")


def stored_login(url: str, headers: Mapping[str, str]) -> OAuth | None:
    """Return options that use a login of `agentkit mcp login` and ask nobody.

    Returns None if the application gives the header Authorization itself, or tokens may not be sent to the URL.
    """
    if any(name.lower() == "authorization" for name in headers):
        return None
    try:
        checked_url(url, "MCP server URL")
    except UntrustedURL:
        return None
    return OAuth()


async def open_browser(url: str) -> None:
    """Open the person's browser at an authorization URL and print the URL to stderr, for `OAuth.on_authorize`."""
    import sys
    import webbrowser

    import anyio.to_thread

    print(f"Log in with a browser at:\n{url}", file=sys.stderr, flush=True)
    # `checked_url` has admitted the URL: no other scheme than http(s), no characters of a shell.
    await anyio.to_thread.run_sync(webbrowser.open, url)
