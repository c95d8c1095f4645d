"""A stored login: tokens, the client that got them, and the server that they are bound to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

EARLY_S = 30.0
"""Seconds before its expiry at which a token is refreshed: a request and the clocks' difference."""


class StoredClient(BaseModel):
    """A client at one authorization server."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    issuer: str
    """Authorization server that the client is registered with; its secret goes nowhere else."""
    client_id: str
    client_secret: str | None = Field(default=None, repr=False)
    auth_method: Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
    """How the client proves itself at the token endpoint."""
    redirect_port: int = 0
    """Port in the redirect URI that was registered; 0: none was."""
    scopes: tuple[str, ...] | None = Field(default=None, strict=False)
    """Scopes that the client was registered for; None: it may request any."""

    def may_request(self, scopes: Sequence[str]) -> bool:
        """Return whether the client was registered for these scopes."""
        return self.scopes is None or set(scopes) <= set(self.scopes)


class StoredTokens(BaseModel):
    """Tokens for one resource from one authorization server."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    issuer: str
    resource: str
    """Resource indicator (RFC 8707) that the tokens were requested for."""
    token_endpoint: str
    revocation_endpoint: str | None = None
    access_token: str = Field(repr=False)
    refresh_token: str | None = Field(default=None, repr=False)
    expires_at: float | None = None
    """Unix time; None: the server did not say."""
    scopes: tuple[str, ...] = Field(default=(), strict=False)

    def is_fresh(self, now: float | None = None) -> bool:
        """Return whether the access token can be used for another while."""
        return self.expires_at is None or self.expires_at - EARLY_S > (time.time() if now is None else now)


class StoredLogin(BaseModel):
    """Everything that is stored for one MCP server and account."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    url: str
    """MCP server; a record is used for exactly this URL."""
    account: str = ""
    client: StoredClient | None = None
    tokens: StoredTokens | None = None
