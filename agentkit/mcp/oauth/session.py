"""The login of one connection to an MCP server: its token, refresh, new logins, more scopes.

    request --401--> refresh --refused--> login --401--> MCPAuthorizationRequired
            `-403 insufficient_scope--> login with more scopes, unless the token has them already

A refresh token is used once, so a refresh holds the store's lock, across processes, and reads the store first:
another one may have refreshed already. Within a connection one task at a time logs in; tasks that waited for it
take its token, or its error.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.to_thread
from pydantic import ValidationError

from agentkit.errors import MCPAuthorizationRequired, MCPConnectionError
from agentkit.mcp.oauth import grants
from agentkit.mcp.oauth.challenge import MAX_SCOPES, Challenge
from agentkit.mcp.oauth.discovery import AuthorizationServer, discover
from agentkit.mcp.oauth.loopback import (
    AuthorizationResponse,
    RedirectReceiver,
    is_state,
    open_receiver,
    response_in,
)
from agentkit.mcp.oauth.options import OAuth
from agentkit.mcp.oauth.records import StoredClient, StoredLogin, StoredTokens
from agentkit.mcp.oauth.requests import OAuthError, Requests, ServerUnavailable, open_requests
from agentkit.mcp.oauth.storage import LoginBusy, TokenStorage, default_storage, locked, login_name

logger = logging.getLogger(__name__)

MAX_LOGINS = 3
"""Logins of one connection; a server that is never content must not ask the person for ever."""
MIN_REDACTED_CHARS = 6

Waiting = Callable[[], AbstractContextManager[None]]
"""Stops the clocks of calls while a person logs in."""


class OAuthSession:
    """Login of one connection. Belongs to one event loop."""

    def __init__(self, server_url: str, options: OAuth, name: str = "", waiting: Waiting = nullcontext) -> None:
        """Log in to the MCP server at `server_url`, called `name` in errors."""
        self._url = server_url
        self._options = options
        self._name = name or server_url
        self._waiting = waiting
        self._stored_as = login_name(server_url, options.account)
        self._storage: TokenStorage | None = options.storage
        self._login: StoredLogin | None = None
        self._lock = asyncio.Lock()
        self._n_logins = 0
        self._failures: list[MCPConnectionError] = []
        self._declined: dict[tuple[str, ...] | None, MCPAuthorizationRequired] = {}
        """Logins that were not made, by the scopes of their challenge: the person is not asked again for them."""
        self._from_login: str | None = None
        """Access token of the last login of this connection, until the server has accepted it."""
        self._seen: set[str] = set()
        """Tokens that were used or received, which a server may repeat in its errors."""
        self.refusal: Exception | None = None
        """Error because of which the server refused the last request; None if it accepted it."""

    def redacted(self, text: str) -> str:
        """Return `text` without the tokens of this session."""
        for secret in sorted(self._seen, key=len, reverse=True):
            text = text.replace(secret, "[token]")
        return text

    def accepted(self, token: str | None) -> None:
        """Note that the server accepted a request with `token`."""
        self.refusal = None
        if token == self._from_login:
            self._from_login = None

    async def stored(self) -> StoredLogin:
        """Return what is stored; an empty login if nothing is, or if it is not for these options.

        Raises:
            UserError: the store cannot be read.
        """
        await self._read()
        return self._current

    async def place(self) -> str:
        """Return the store of the login, in words."""
        return repr(await self._store())

    async def access_token(self) -> str | None:
        """Return an access token, refreshed if it ends soon; None without a usable login.

        Raises:
            MCPConnectionError: another process holds the login's lock too long.
            UserError: the store cannot be used.
        """
        if self._login is None:
            await self._read()
        tokens = self._current.tokens
        if tokens is None or tokens.is_fresh():
            return None if tokens is None else tokens.access_token
        async with self._exclusive():
            tokens = self._current.tokens
            if tokens is not None and not tokens.is_fresh() and tokens.refresh_token is not None:
                try:
                    await self._refresh(tokens)
                except (OAuthError, ServerUnavailable) as error:
                    # The request is sent with the old token; the server decides whether a login is needed.
                    logger.info("MCP server %r: the login could not be refreshed: %s", self._name, error)
        tokens = self._current.tokens
        return None if tokens is None else tokens.access_token

    async def renew(self, challenge: Challenge, rejected: str | None) -> str:
        """Return another token after status 401: one that another task has got, a refreshed one, or a new login's.

        Args:
            challenge: Challenge of the refused request.
            rejected: The token that was refused; None: none was sent.

        Raises:
            MCPAuthorizationRequired: a person must log in.
            MCPConnectionError: a server cannot be used for a login.
            UserError: the store cannot be used.
        """
        async with self._exclusive():
            tokens = self._current.tokens
            if tokens is not None and tokens.access_token != rejected and tokens.is_fresh():
                return tokens.access_token
            if rejected is not None and rejected == self._from_login:
                raise self._required("refuses the token of a login that has just succeeded")
            if tokens is not None and tokens.refresh_token is not None:
                try:
                    return (await self._refresh(tokens)).access_token
                except grants.GrantRefused as error:
                    logger.info("MCP server %r: the login has ended: %s", self._name, error)
                except OAuthError as error:
                    raise self._unusable(error) from error
            return await self._log_in(challenge, ())

    async def step_up(self, challenge: Challenge, rejected: str | None) -> str:
        """Return a token with more scopes after status 403 `insufficient_scope`.

        Raises:
            MCPAuthorizationRequired: a person must log in, or the token has the scopes already.
            MCPConnectionError: a server cannot be used for a login.
            UserError: the store cannot be used.
        """
        async with self._exclusive():
            tokens = self._current.tokens
            granted = () if tokens is None else tokens.scopes
            has_all = set(challenge.scopes or ()) <= set(granted)
            if tokens is not None and tokens.access_token != rejected and has_all:
                return tokens.access_token
            if has_all:
                raise self._required("refuses a call although the login has the scopes that it names")
            return await self._log_in(challenge, granted)

    async def log_in(self, challenge: Challenge) -> None:
        """Log in anew, whatever is stored; for `agentkit mcp login`.

        Raises:
            MCPAuthorizationRequired: the person did not log in.
            MCPConnectionError: a server cannot be used for a login.
            UserError: the store cannot be used.
        """
        async with self._exclusive():
            await self._log_in(challenge, ())

    async def log_out(self) -> bool | None:
        """Revoke the tokens and delete the login; return whether they were revoked, None if nothing was stored.

        Raises:
            UserError: the store cannot be used.
        """
        revoked: bool | None = None
        async with self._exclusive():
            tokens, client = self._current.tokens, self._current.client
            if tokens is not None and client is not None:
                try:
                    async with open_requests(self._url) as requests:
                        revoked = await grants.revoke(requests, tokens, client, self._options)
                except OAuthError as error:
                    logger.warning("MCP server %r: the tokens could not be revoked: %s", self._name, error)
                    revoked = False
            await anyio.to_thread.run_sync((await self._store()).delete, self._stored_as)
            self._login = None
        return revoked

    # -- under the lock -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _exclusive(self) -> AsyncGenerator[None]:
        """Hold the login, in this task and this process alone; `_current` is read anew.

        Raises:
            MCPConnectionError: a login failed while this task waited for it, or another process holds the lock.
        """
        n_failures = len(self._failures)
        async with self._lock:
            if len(self._failures) > n_failures:
                raise self._failures[-1]
            try:
                async with locked(await self._store(), self._stored_as):
                    await self._read()
                    yield
            except LoginBusy:
                raise MCPConnectionError(
                    f"MCP server {self._name!r}: another process has been logging in for a minute; try again."
                ) from None

    async def _refresh(self, tokens: StoredTokens) -> StoredTokens:
        """Refresh tokens and store them.

        Raises:
            GrantRefused: the login has ended; it is stored without tokens.
            OAuthError: the answer is not valid, or there is none.
        """
        client = self._current.client
        if client is None:
            raise grants.GrantRefused("the stored login has no client.")
        # Shielded, for as long as a request may take: a new refresh token that is not stored is lost.
        with anyio.CancelScope(shield=True):
            try:
                async with open_requests(self._url) as requests:
                    new = await grants.refreshed(requests, tokens, client, self._options)
            except grants.GrantRefused:
                await self._write(self._current.model_copy(update={"tokens": None}))
                raise
            await self._write(self._current.model_copy(update={"tokens": new}))
            return new
        raise AssertionError("a shielded block returns or raises")

    async def _log_in(self, challenge: Challenge, granted: tuple[str, ...]) -> str:
        """Log in and store the login; a failure is kept for the tasks that wait.

        Raises:
            MCPAuthorizationRequired: a person must log in.
            MCPConnectionError: a server cannot be used for a login.
        """
        needs_person = self._options.grant == "authorization_code"
        try:
            if needs_person and self._options.on_authorize is None:
                raise self._required("wants a login", or_header=challenge.resource_metadata is None)
            if (declined := self._declined.get(challenge.scopes)) is not None:
                raise declined
            if self._n_logins >= MAX_LOGINS:
                raise self._required(f"wants another login after {MAX_LOGINS}")
            self._n_logins += 1
            async with open_requests(self._url) as requests:
                issuer = self._options.issuer
                if issuer is None and (known := self._current.client) is not None:
                    issuer = known.issuer  # trusted on first use; `log_out` forgets it
                server = await discover(requests, self._url, challenge, issuer, needs_pkce=needs_person)
                scopes = self._scopes(server, challenge, granted)
                if needs_person:
                    login = await self._authorized(requests, server, scopes)
                else:
                    client = await grants.new_client(requests, server, self._options, 0, scopes)
                    tokens = await grants.client_credentials(requests, server, client, self._options, scopes)
                    login = self._current.model_copy(update={"client": client, "tokens": tokens})
        except OAuthError as error:
            self._failures.append(self._unusable(error))
            raise self._failures[-1] from error
        except MCPConnectionError as error:
            self._failures.append(error)
            if isinstance(error, MCPAuthorizationRequired):
                self._declined.setdefault(challenge.scopes, error)
            raise
        await self._write(login)
        assert login.tokens is not None
        self._from_login = login.tokens.access_token
        return login.tokens.access_token

    def _scopes(
        self, server: AuthorizationServer, challenge: Challenge, granted: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Return the scopes to request: the application's, else the challenge's, else the resource's.

        Granted scopes are requested again, because a new token replaces the old one.
        """
        wanted = self._options.scopes
        if wanted is None or granted:
            wanted = (*(wanted or ()), *(challenge.scopes or ()))
            wanted = wanted if challenge.scopes is not None else server.resource_scopes or ()
        offered = server.metadata.scopes_supported or ()
        if wanted and self._options.grant == "authorization_code" and "offline_access" in offered:
            wanted = (*wanted, "offline_access")  # asks for a refresh token (OpenID Connect Core, section 11)
        return tuple(dict.fromkeys((*granted, *wanted)))[: 2 * MAX_SCOPES]

    async def _authorized(
        self, requests: Requests, server: AuthorizationServer, scopes: tuple[str, ...]
    ) -> StoredLogin:
        """Ask the person; return the login."""
        state, pkce = secrets.token_urlsafe(32), grants.new_pkce()
        known = self._known_client(server)
        async with self._receiver(state, known) as receiver:
            port = receiver.port
            if known is None or known.redirect_port != port or not known.may_request(scopes):
                known = await grants.new_client(requests, server, self._options, port, scopes)
            url = grants.authorization_url(server, known, pkce, state, port, scopes)
            try:
                response = await self._response(url, receiver)
                code = self._code(response, server, state)
                tokens = await grants.exchange_code(
                    requests, server, known, self._options, code=code, pkce=pkce, port=port, scopes=scopes
                )
            except (OAuthError, MCPConnectionError):
                # The client may have been deleted at the server: the next login registers another one.
                await self._write(self._current.model_copy(update={"client": None, "tokens": None}))
                raise
        return self._current.model_copy(update={"client": known, "tokens": tokens})

    def _known_client(self, server: AuthorizationServer) -> StoredClient | None:
        """Return the stored client if it is one of this server and these options."""
        known = self._current.client
        if known is None or known.issuer != server.issuer:
            return None
        given = self._options.client_id or self._options.client_metadata_url
        is_same = given is None or (
            given == known.client_id and known.client_secret == self._options.client_secret
        )
        return known if is_same else None

    @asynccontextmanager
    async def _receiver(self, state: str, known: StoredClient | None) -> AsyncGenerator[RedirectReceiver]:
        """Listen on the port of the options, else on the one that was registered, else on a free one."""
        fixed = self._options.redirect_port
        receiver = open_receiver(state, fixed or (known.redirect_port if known is not None else 0))
        try:
            opened = await receiver.__aenter__()
        except OSError as error:
            if fixed:
                raise OAuthError(f"redirect_port={fixed} cannot be used: {error.strerror}.") from error
            receiver = open_receiver(state, 0)
            opened = await receiver.__aenter__()
        try:
            yield opened
        finally:
            await receiver.__aexit__(None, None, None)

    async def _response(self, url: str, receiver: RedirectReceiver) -> AuthorizationResponse:
        """Show the URL to the person and wait for the redirect.

        Raises:
            MCPAuthorizationRequired: the person did not log in in time.
        """
        on_authorize = self._options.on_authorize
        assert on_authorize is not None  # checked before discovery
        with self._waiting(), anyio.move_on_after(self._options.timeout_s):
            shown = await on_authorize(url)
            return await receiver.response() if shown is None else response_in(shown)
        raise self._required(f"got no login within {self._options.timeout_s:g} s")

    def _code(self, response: AuthorizationResponse, server: AuthorizationServer, state: str) -> str:
        """Return the authorization code of a response that belongs to the request.

        Raises:
            OAuthError: state or issuer are those of another request or server.
            MCPAuthorizationRequired: the login was not granted.
        """
        if not is_state(response.state, state):
            raise OAuthError(
                "the authorization response has another state than the request: it is of another login."
            )
        expected = str(server.metadata.issuer)
        if response.issuer is None and server.metadata.authorization_response_iss_parameter_supported:
            raise OAuthError(f"the authorization response lacks `iss`, which {expected!r} sends (RFC 9207).")
        if response.issuer not in (None, expected):
            raise OAuthError(f"the authorization response is of another server than {expected!r} (RFC 9207).")
        if response.error is not None or not response.code:
            code = response.error or "no code"
            shown = code[:100] if code.isascii() and code.isprintable() else "unreadable error"
            raise self._required(f"was not granted a login ({shown})")
        return response.code

    # -- store ----------------------------------------------------------------------------------------------

    @property
    def _current(self) -> StoredLogin:
        return self._login or StoredLogin(url=self._url, account=self._options.account)

    async def _store(self) -> TokenStorage:
        if self._storage is None:
            self._storage = await anyio.to_thread.run_sync(default_storage)  # a keyring may ask another process
        return self._storage

    async def _read(self) -> None:
        """Read the login; one of other options counts as missing, a damaged one is set aside."""
        storage = await self._store()
        text = await anyio.to_thread.run_sync(storage.read, self._stored_as)
        self._login = None
        if text is None:
            return
        try:
            login = StoredLogin.model_validate_json(text)
        except ValidationError:
            await anyio.to_thread.run_sync(storage.set_aside, self._stored_as)
            return
        self._login = self._usable(login)
        self._remember(self._login)

    def _usable(self, login: StoredLogin) -> StoredLogin | None:
        """Return a stored login if it is for this server, account, issuer and client."""
        issuer, client_id, client, tokens = (
            self._options.issuer,
            self._options.client_id,
            login.client,
            login.tokens,
        )
        fits = (
            (login.url, login.account) == (self._url, self._options.account)
            and (client is None or issuer in (None, client.issuer))
            and (client is None or client_id in (None, client.client_id))
            and (tokens is None or (client is not None and tokens.issuer == client.issuer))
        )
        return login if fits else None

    async def _write(self, login: StoredLogin) -> None:
        storage = await self._store()
        self._remember(login)
        await anyio.to_thread.run_sync(storage.write, self._stored_as, login.model_dump_json())
        self._login = login

    def _remember(self, login: StoredLogin | None) -> None:
        if login is None or login.tokens is None:
            return
        for token in (login.tokens.access_token, login.tokens.refresh_token):
            if token is not None and len(token) >= MIN_REDACTED_CHARS:
                self._seen.add(token)

    # -- errors ---------------------------------------------------------------------------------------------

    def _required(self, reason: str, *, or_header: bool = False) -> MCPAuthorizationRequired:
        """Return the error that a person must log in; a server without OAuth may want a fixed token instead."""
        url = urlunsplit(urlsplit(self._url)._replace(query="", fragment=""))
        account = f" --account {self._options.account}" if self._options.account else ""
        if self._options.grant == "authorization_code":
            fix = f"log in with `agentkit mcp login {url}{account}`, or give OAuth(on_authorize=open_browser)."
            if or_header:
                fix += " A fixed token is given as --header 'Authorization: Bearer ${TOKEN}', or headers={...}."
        else:
            fix = "check the client's credentials and scopes at the authorization server."
        return MCPAuthorizationRequired(f"MCP server {self._name!r} {reason}; {fix}", url=url)

    def _unusable(self, error: OAuthError) -> MCPConnectionError:
        return MCPConnectionError(f"MCP server {self._name!r} cannot be logged in to: {error}")
