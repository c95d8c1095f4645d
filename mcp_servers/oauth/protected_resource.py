"""The protected resource as data: its URL, the issuer of its tokens, the scopes that it requires (RFC 9728)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key. `none` and the HS ones are never accepted: their key would be public."""
WELL_KNOWN = "/.well-known/oauth-protected-resource"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """A server whose clients need access tokens."""

    url: str
    """URL by which clients reach it; tokens must have it as audience (RFC 8707)."""
    issuer: str
    """Authorization server whose tokens are accepted."""
    audience: str | None = None
    """Audience of the tokens, for an issuer that does not use the URL of the resource; None: the URL."""
    scopes: tuple[str, ...] = ()
    """Scopes that every request needs."""
    jwks_uri: str | None = None
    """URL of the issuer's keys; None: the one in the issuer's metadata."""
    algorithms: tuple[str, ...] = ALGORITHMS
    """Signature algorithms that are accepted."""
    introspection_endpoint: str | None = None
    """Endpoint that is asked about each token (RFC 7662), instead of verifying signatures."""
    client_id: str | None = None
    """Client id of this server at the introspection endpoint."""
    client_secret: str | None = field(default=None, repr=False)
    name: str | None = None
    """Name that clients may show."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a value is not allowed; the message names value, rule and fix.
        """
        for name in ("url", "issuer", "jwks_uri", "introspection_endpoint"):
            if (value := getattr(self, name)) is not None:
                _check_url(name, value)
        unknown = [each for each in self.algorithms if each not in ALGORITHMS]
        if unknown or not self.algorithms:
            raise ValueError(f"algorithms={unknown or self.algorithms!r}: choose from {', '.join(ALGORITHMS)}.")
        for scope in self.scopes:
            if not scope or not scope.isascii() or not scope.isprintable() or set(scope) & set(' "\\'):
                raise ValueError(
                    f"scope {scope!r} must be printable ASCII without spaces, quotes and backslashes."
                )
        if self.audience is not None and not self.audience.strip():
            raise ValueError("audience='' would accept no token; leave it out for the URL of the resource.")
        if (self.introspection_endpoint is None) != (self.client_id is None):
            raise ValueError("introspection_endpoint and client_id belong together; give both or none.")
        if (self.client_id is None) != (self.client_secret is None):
            raise ValueError("client_id and client_secret belong together; give both or none.")

    @property
    def metadata_path(self) -> str:
        """Path of the metadata: the well-known path before the resource's own (RFC 9728, section 3.1)."""
        return WELL_KNOWN + urlsplit(self.url).path.rstrip("/")

    @property
    def metadata_url(self) -> str:
        """URL of the metadata."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{self.metadata_path}"

    @property
    def host(self) -> str:
        """Host header of requests to it, with a port that is not the default."""
        return urlsplit(self.url).netloc

    def metadata(self) -> dict[str, Any]:
        """Return the metadata document."""
        document: dict[str, Any] = {
            "resource": self.url,
            "authorization_servers": [self.issuer],
            "bearer_methods_supported": ["header"],
        }
        if self.scopes:
            document["scopes_supported"] = list(self.scopes)
        if self.name is not None:
            document["resource_name"] = self.name
        return document

    def challenge(self, error: str | None = None, description: str = "") -> str:
        """Return the value of `WWW-Authenticate` (RFC 6750, RFC 9728)."""
        parameters = {
            "error": error,
            "error_description": description or None,
            "scope": " ".join(self.scopes) or None,
            "resource_metadata": self.metadata_url,
        }
        return "Bearer " + ", ".join(
            f'{name}="{value}"' for name, value in parameters.items() if value is not None
        )


def port_of(url: str) -> int:
    """Return the port of an http or https URL."""
    parts = urlsplit(url)
    return parts.port or _DEFAULT_PORTS[parts.scheme]


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{name}={url!r} is not a URL: {error}.") from error
    if not url.isascii() or not url.isprintable() or set(url) & set(' "\\'):
        raise ValueError(f"{name}={url!r}: a URL is printable ASCII without spaces, quotes and backslashes.")
    if not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError(f"{name}={url!r}: the URL needs a host, and has no user name and no fragment.")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts)):
        raise ValueError(f"{name}={url!r} must be https; http is allowed for this machine only.")


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
