"""Clients, token requests and answers: registration, PKCE, the grants, refresh and revocation.

Each function makes one step against one authorization server; `agentkit.mcp.oauth.session` puts them in order.
No error repeats what a server says beyond its error code, because an answer may have tokens in it.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agentkit.mcp.oauth.discovery import AuthorizationServer
from agentkit.mcp.oauth.loopback import redirect_uri
from agentkit.mcp.oauth.options import OAuth
from agentkit.mcp.oauth.records import StoredClient, StoredTokens
from agentkit.mcp.oauth.requests import Answer, OAuthError, Requests, ServerUnavailable, is_success

MAX_TOKEN_CHARS = 16_384
"""Longest token: headers of more than 16 KiB are refused by common servers."""
MAX_LIFETIME_S = 10 * 365 * 86_400
ASSERTION_LIFETIME_S = 60
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_METHODS = ("client_secret_basic", "client_secret_post", "none")
"""Ways of a client to prove itself that may be registered; the first that the server supports is taken."""


class GrantRefused(OAuthError):
    """The token endpoint refuses a grant, for example a revoked refresh token."""


class _TokenAnswer(BaseModel):
    """Answer of a token endpoint (RFC 6749, section 5.1)."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    access_token: str = Field(min_length=1, max_length=MAX_TOKEN_CHARS)
    token_type: str
    expires_in: float | None = Field(default=None, ge=0, le=MAX_LIFETIME_S)
    refresh_token: str | None = Field(default=None, max_length=MAX_TOKEN_CHARS)
    scope: str | None = Field(default=None, max_length=MAX_TOKEN_CHARS)

    @field_validator("access_token")
    @classmethod
    def _fits_a_header(cls, token: str) -> str:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("a token is printable ASCII without spaces")
        return token

    @field_validator("token_type")
    @classmethod
    def _is_bearer(cls, kind: str) -> str:
        if kind.lower() != "bearer":
            raise ValueError("only Bearer tokens are supported")
        return kind


class _ClientAnswer(BaseModel):
    """Answer of a registration endpoint (RFC 7591, section 3.2.1)."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    client_id: str = Field(min_length=1, max_length=2_048)
    client_secret: str | None = Field(default=None, max_length=4_096)
    token_endpoint_auth_method: str | None = None


@dataclass(frozen=True, slots=True)
class PKCE:
    """Verifier and challenge of one login (RFC 7636)."""

    verifier: str
    challenge: str


def new_pkce() -> PKCE:
    """Return a new verifier with its S256 challenge."""
    verifier = secrets.token_urlsafe(64)
    digest = hashlib.sha256(verifier.encode()).digest()
    return PKCE(verifier, base64.urlsafe_b64encode(digest).decode().rstrip("="))


async def new_client(
    requests: Requests, server: AuthorizationServer, options: OAuth, port: int, scopes: Sequence[str]
) -> StoredClient:
    """Return the client for an authorization server: the given one, its metadata URL, or a new registration.

    Raises:
        OAuthError: nothing of these is possible, or the registration is refused.
    """
    if options.client_id is not None:
        return _given_client(server, options, options.client_id, port)
    metadata_url = options.client_metadata_url
    if metadata_url is not None and server.metadata.client_id_metadata_document_supported:
        return StoredClient(issuer=server.issuer, client_id=metadata_url, auth_method="none", redirect_port=port)
    if server.metadata.registration_endpoint is None:
        raise OAuthError(
            f"the authorization server {server.issuer!r} registers no clients; register one there and give it as "
            f"OAuth(client_id=..., client_secret=...)."
        )
    return await _registered(requests, server, options, port, scopes)


def _given_client(server: AuthorizationServer, options: OAuth, client_id: str, port: int) -> StoredClient:
    if options.private_key is not None:
        method = "private_key_jwt"
    elif options.client_secret is None:
        method = "none"
    else:
        method = "client_secret_basic" if server.supports("client_secret_basic") else "client_secret_post"
    return StoredClient(
        issuer=server.issuer,
        client_id=client_id,
        client_secret=options.client_secret,
        auth_method=method,
        redirect_port=port,
    )


async def _registered(
    requests: Requests, server: AuthorizationServer, options: OAuth, port: int, scopes: Sequence[str]
) -> StoredClient:
    wanted = next((method for method in _METHODS if server.supports(method)), "none")
    wanted = "none" if server.supports("none") else wanted  # a public client has no secret to lose
    document: dict[str, Any] = {
        "client_name": options.client_name,
        "redirect_uris": [redirect_uri(port)],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": wanted,
        "application_type": "native",
    }
    # A server may refuse later requests for scopes that the client was not registered for.
    registered = tuple(dict.fromkeys((*scopes, *(server.resource_scopes or ()))))
    if registered:
        document["scope"] = " ".join(registered)
    endpoint = str(server.metadata.registration_endpoint)
    answer = await requests.post(endpoint, "client registration", document=document)
    if not is_success(answer.status):
        raise _refusal("registers no client", server.issuer, answer)
    try:
        # Some servers write null or "" for what they do not set.
        found = _ClientAnswer.model_validate(
            {k: v for k, v in (answer.document or {}).items() if v not in (None, "")}
        )
    except ValidationError as error:
        raise OAuthError(f"the client registration of {server.issuer!r} is not valid: {_first(error)}.") from None
    method = found.token_endpoint_auth_method or ("client_secret_basic" if found.client_secret else "none")
    if method not in _METHODS or (method != "none" and found.client_secret is None):
        raise OAuthError(
            f"the authorization server {server.issuer!r} registered a client that proves itself by "
            f"{method[:50]!r}, which is not possible here; give one as OAuth(client_id=...)."
        )
    return StoredClient(
        issuer=server.issuer,
        client_id=found.client_id,
        client_secret=found.client_secret,
        auth_method=cast(Any, method),
        redirect_port=port,
        scopes=registered or None,
    )


def authorization_url(
    server: AuthorizationServer, client: StoredClient, pkce: PKCE, state: str, port: int, scopes: Sequence[str]
) -> str:
    """Return the URL that the person opens."""
    parameters = {
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": redirect_uri(port),
        "state": state,
        "code_challenge": pkce.challenge,
        "code_challenge_method": "S256",
        "resource": server.resource,
    }
    if scopes:
        parameters["scope"] = " ".join(scopes)
    if "offline_access" in scopes:
        parameters["prompt"] = "consent"  # OpenID Connect Core, section 11
    endpoint = str(server.metadata.authorization_endpoint)
    # The endpoint may have a query of its own (RFC 6749, section 3.1). `$` and quotes are never left unescaped.
    return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(parameters, quote_via=quote, safe='')}"


async def exchange_code(
    requests: Requests,
    server: AuthorizationServer,
    client: StoredClient,
    options: OAuth,
    *,
    code: str,
    pkce: PKCE,
    port: int,
    scopes: Sequence[str],
) -> StoredTokens:
    """Exchange an authorization code for tokens.

    Raises:
        OAuthError: the server refuses, or its answer is not valid.
    """
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri(port),
        "code_verifier": pkce.verifier,
        "resource": server.resource,
    }
    return await _tokens(requests, server, client, options, form, scopes)


async def client_credentials(
    requests: Requests, server: AuthorizationServer, client: StoredClient, options: OAuth, scopes: Sequence[str]
) -> StoredTokens:
    """Log the client itself in.

    Raises:
        OAuthError: the server refuses, or its answer is not valid.
    """
    form = {"grant_type": "client_credentials", "resource": server.resource}
    if scopes:
        form["scope"] = " ".join(scopes)
    return await _tokens(requests, server, client, options, form, scopes)


async def _tokens(
    requests: Requests,
    server: AuthorizationServer,
    client: StoredClient,
    options: OAuth,
    form: Mapping[str, str],
    scopes: Sequence[str],
) -> StoredTokens:
    answer = await _ask(requests, server.token_endpoint, client, options, form)
    found = _token_answer(answer, client.issuer)
    revocation = server.metadata.revocation_endpoint
    return StoredTokens(
        issuer=server.issuer,
        resource=server.resource,
        token_endpoint=server.token_endpoint,
        revocation_endpoint=None if revocation is None else str(revocation),
        access_token=found.access_token,
        refresh_token=found.refresh_token,
        expires_at=_expiry(found),
        # An omitted scope means the requested one (RFC 6749, section 5.1).
        scopes=tuple(scopes if found.scope is None else found.scope.split()),
    )


async def refreshed(
    requests: Requests, tokens: StoredTokens, client: StoredClient, options: OAuth
) -> StoredTokens:
    """Return new tokens for a refresh token; a server that rotates them sends a new one.

    Raises:
        GrantRefused: the refresh token has expired or was revoked.
        OAuthError: the answer is not valid.
        ServerUnavailable: the server failed; the refresh token may still be valid.
    """
    form = {
        "grant_type": "refresh_token",
        "refresh_token": tokens.refresh_token or "",
        "resource": tokens.resource,
    }
    found = _token_answer(await _ask(requests, tokens.token_endpoint, client, options, form), tokens.issuer)
    return tokens.model_copy(
        update={
            "access_token": found.access_token,
            "refresh_token": found.refresh_token or tokens.refresh_token,
            "expires_at": _expiry(found),
            "scopes": tokens.scopes if found.scope is None else tuple(found.scope.split()),
        }
    )


async def revoke(requests: Requests, tokens: StoredTokens, client: StoredClient, options: OAuth) -> bool:
    """Revoke tokens at their server (RFC 7009); return whether the server took it.

    Raises:
        OAuthError: the server cannot be reached.
    """
    if tokens.revocation_endpoint is None:
        return False
    kind, token = "access_token", tokens.access_token
    if tokens.refresh_token is not None:
        kind, token = "refresh_token", tokens.refresh_token
    form = {"token": token, "token_type_hint": kind}
    answer = await _ask(requests, tokens.revocation_endpoint, client, options, form, audience=tokens.issuer)
    return is_success(answer.status)


async def _ask(
    requests: Requests,
    endpoint: str,
    client: StoredClient,
    options: OAuth,
    form: Mapping[str, str],
    audience: str | None = None,
) -> Answer:
    """Send a form with the proof of the client."""
    fields, headers = {**form, "client_id": client.client_id}, dict[str, str]()
    secret = client.client_secret
    if client.auth_method == "client_secret_basic" and secret is not None:
        # RFC 6749, section 2.3.1: both parts are encoded as in forms.
        pair = f"{quote(client.client_id, safe='')}:{quote(secret, safe='')}"
        headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        del fields["client_id"]
    elif client.auth_method == "client_secret_post" and secret is not None:
        fields["client_secret"] = secret
    elif client.auth_method == "private_key_jwt":
        fields["client_assertion_type"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        fields["client_assertion"] = _assertion(client, options, audience or client.issuer)
    return await requests.post(endpoint, "token endpoint", form=fields, headers=headers)


def _assertion(client: StoredClient, options: OAuth, audience: str) -> str:
    """Return the signed statement of a client (RFC 7523); its audience is the issuer, as later drafts demand."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key((options.private_key or "").encode(), None)
    except (ValueError, TypeError) as error:
        raise OAuthError("private_key is not an unencrypted private key in PEM.") from error
    match key:
        case rsa.RSAPrivateKey():
            algorithm = "RS256"
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1()):
            algorithm = "ES256"
        case ed25519.Ed25519PrivateKey():
            algorithm = "EdDSA"
        case _:
            raise OAuthError("private_key must be an RSA, P-256 or Ed25519 key.")
    now = int(time.time())
    claims = {
        "iss": client.client_id,
        "sub": client.client_id,
        "aud": audience,
        "iat": now,
        "exp": now + ASSERTION_LIFETIME_S,
        "jti": uuid4().hex,
    }
    return jwt.encode(claims, key, algorithm=algorithm)


def _token_answer(answer: Answer, issuer: str) -> _TokenAnswer:
    if answer.status in _TRANSIENT:
        raise ServerUnavailable(f"the token endpoint of {issuer!r} failed with status {answer.status}.")
    if not is_success(answer.status):
        raise _refusal("refuses the grant", issuer, answer)
    try:
        return _TokenAnswer.model_validate(answer.document)
    except ValidationError as error:
        raise OAuthError(
            f"the token endpoint of {issuer!r} answered what is not valid: {_first(error)}."
        ) from None


def _refusal(what: str, issuer: str, answer: Answer) -> GrantRefused:
    code = f" ({answer.error})" if answer.error else ""
    return GrantRefused(f"the authorization server {issuer!r} {what}: status {answer.status}{code}.")


def _expiry(found: _TokenAnswer) -> float | None:
    return None if found.expires_in is None else time.time() + found.expires_in


def _first(error: ValidationError) -> str:
    """Return field and rule of the first problem, without its value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
