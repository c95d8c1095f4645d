"""Discovery: from a refused request to the authorization server (RFC 9728, RFC 8414, OpenID Connect Discovery).

Every document names who it is for, and that is compared with who was asked: the resource with the MCP server's
URL, the issuer with the issuer whose metadata was requested (mix-up attacks, RFC 9207). Metadata of the resource
must be on the MCP server's own origin; else a refused request could make the client request any URL.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlsplit

from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
    issuers_match,
)
from mcp.shared.auth import OAuthMetadata, ProtectedResourceMetadata
from pydantic import BaseModel, ValidationError

from agentkit.mcp.oauth.challenge import MAX_SCOPES, Challenge
from agentkit.mcp.oauth.requests import OAuthError, Requests, ServerUnavailable
from agentkit.mcp.oauth.urls import UntrustedURL, checked_url, covers, origin_of

MAX_AUTHORIZATION_SERVERS = 20
MAX_SCOPE_CHARS = 4_096
DocumentT = TypeVar("DocumentT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """An authorization server, checked, and the resource that it issues tokens for."""

    issuer: str
    resource: str
    """Resource indicator for requests (RFC 8707)."""
    metadata: OAuthMetadata
    resource_scopes: tuple[str, ...] | None
    """Scopes that the resource's metadata names; None if it names none."""

    @property
    def token_endpoint(self) -> str:
        """URL of the token endpoint."""
        return str(self.metadata.token_endpoint)

    def supports(self, auth_method: str) -> bool:
        """Return whether clients may prove themselves with a method (RFC 8414: basic, if nothing is said)."""
        return auth_method in (self.metadata.token_endpoint_auth_methods_supported or ("client_secret_basic",))


async def discover(
    requests: Requests, server_url: str, challenge: Challenge, issuer: str | None, *, needs_pkce: bool
) -> AuthorizationServer:
    """Return the authorization server of an MCP server.

    Args:
        requests: Requests for this MCP server.
        server_url: URL of the MCP server.
        challenge: Challenge of the refused request.
        issuer: The only issuer that may be used; None: the first that the server names.
        needs_pkce: True if the server must support PKCE with S256.

    Raises:
        OAuthError: metadata is missing, has another resource or issuer, or lacks PKCE.
        ServerUnavailable: a server did not answer.
    """
    resource = await _resource_metadata(requests, server_url, challenge)
    if resource is None:  # MCP 2025-03-26: the MCP server's origin is the authorization server
        parts = urlsplit(server_url)
        advertised, indicator, scopes = [f"{parts.scheme}://{parts.netloc}"], server_url, None
    else:
        advertised = [str(each) for each in resource.authorization_servers][:MAX_AUTHORIZATION_SERVERS]
        indicator, scopes = str(resource.resource), _scopes(resource.scopes_supported)
    chosen = _chosen(advertised, issuer, server_url)
    metadata = await _server_metadata(requests, chosen, server_url)
    _check(metadata, needs_pkce=needs_pkce)
    return AuthorizationServer(chosen, indicator, metadata, scopes)


async def _resource_metadata(
    requests: Requests, server_url: str, challenge: Challenge
) -> ProtectedResourceMetadata | None:
    """Return the protected resource metadata; None if the server has none."""
    named = challenge.resource_metadata
    if named is not None and origin_of(named) != origin_of(server_url):
        raise OAuthError(
            f"the MCP server names resource metadata at {named[:200]!r}; it must be on the server's own origin."
        )
    for url in dict.fromkeys(build_protected_resource_metadata_discovery_urls(named, server_url)):
        found = await _document(requests, url, "protected resource metadata", ProtectedResourceMetadata)
        if found is None:
            continue
        if not covers(str(found.resource), server_url):
            raise OAuthError(
                f"protected resource metadata at {url} is for {str(found.resource)[:200]!r}, not for this server."
            )
        return found
    return None


async def _server_metadata(requests: Requests, issuer: str, server_url: str) -> OAuthMetadata:
    for url in build_oauth_authorization_server_metadata_discovery_urls(issuer, server_url):
        found = await _document(requests, url, "authorization server metadata", OAuthMetadata)
        if found is None:
            continue
        if not issuers_match(str(found.issuer), issuer):
            raise OAuthError(
                f"authorization server metadata at {url} is of {str(found.issuer)[:200]!r}, not {issuer!r}."
            )
        return found
    raise OAuthError(f"the authorization server {issuer!r} has no metadata at its well-known URLs.")


async def _document(requests: Requests, url: str, name: str, kind: type[DocumentT]) -> DocumentT | None:
    """Return a document; None if there is none at the URL."""
    answer = await requests.get(url, name)
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise ServerUnavailable(f"{name} at {url} cannot be had: the server answered {answer.status}.")
    if answer.status != HTTPStatus.OK:
        return None
    try:
        return kind.model_validate(answer.document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise OAuthError(f"{name} at {url} is not valid at {where!r}: {first['msg']}.") from None


def _chosen(advertised: list[str], issuer: str | None, server_url: str) -> str:
    if issuer is None:
        return advertised[0]
    found = next((each for each in advertised if issuers_match(each, issuer)), None)
    if found is None:
        names = ", ".join(repr(each[:200]) for each in advertised)
        raise OAuthError(
            f"the MCP server at {server_url} names the authorization server {names}, but {issuer!r} is expected: "
            f"set `issuer`, or log out and in again if the change is right."
        )
    return found


def _check(metadata: OAuthMetadata, *, needs_pkce: bool) -> None:
    """Check endpoints and PKCE.

    Raises:
        OAuthError: an endpoint has a URL that is not allowed, or PKCE with S256 is not supported.
    """
    try:
        for name in ("authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint"):
            if (endpoint := getattr(metadata, name)) is not None:
                checked_url(str(endpoint), name)
    except UntrustedURL as error:
        raise OAuthError(str(error)) from error
    if needs_pkce and "S256" not in (metadata.code_challenge_methods_supported or ()):
        raise OAuthError(
            f"the authorization server {str(metadata.issuer)!r} does not state PKCE with S256 "
            f"(code_challenge_methods_supported), without which MCP clients must not log in."
        )


def _scopes(names: list[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    kept = tuple(dict.fromkeys(names))[:MAX_SCOPES]
    return kept if sum(map(len, kept)) <= MAX_SCOPE_CHARS else ()
