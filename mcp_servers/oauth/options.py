"""Command line options of a server that demands access tokens, and the reach that verification needs."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from mcp_servers.confinement.declared import Confinement
from mcp_servers.failures import StartError
from mcp_servers.oauth.protected_resource import ProtectedResource, port_of

if TYPE_CHECKING:
    from mcp_servers.oauth.verifying import IntrospectionVerifier, JWTVerifier, TokenVerifier

CLIENT_VARIABLE = "MCP_SERVER_OAUTH_CLIENT"
"""Environment variable with this server's "CLIENT_ID:SECRET" at the introspection endpoint."""


def add_oauth_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a server's parser."""
    group = parser.add_argument_group("oauth", "access tokens of an authorization server instead of --token")
    group.add_argument("--oauth-issuer", metavar="URL", help="authorization server whose tokens are accepted")
    group.add_argument(
        "--oauth-resource",
        metavar="URL",
        help="URL by which clients reach this server, the audience of their tokens (default: its own with --host, "
        "--port)",
    )
    group.add_argument(
        "--oauth-audience",
        metavar="NAME",
        help="audience of the tokens, for an issuer that does not use the URL of the resource",
    )
    group.add_argument(
        "--oauth-scope", metavar="SCOPE", action="append", help="scope that every request needs; may be repeated"
    )
    group.add_argument(
        "--oauth-jwks", metavar="URL", help="keys of the issuer (default: those its metadata names)"
    )
    group.add_argument(
        "--oauth-introspection",
        metavar="URL",
        help=f"endpoint to ask about each token instead of verifying signatures; ${CLIENT_VARIABLE} has "
        "CLIENT_ID:SECRET for it",
    )


def resource_of(options: argparse.Namespace, own_url: str) -> ProtectedResource | None:
    """Return the resource that the options describe; None without --oauth-issuer.

    Args:
        options: Parsed options.
        own_url: URL of the server, for a missing --oauth-resource.

    Raises:
        StartError: options contradict each other, or a value is not allowed.
    """
    given = vars(options)
    if given.get("oauth_issuer") is None:
        names = ("oauth_resource", "oauth_audience", "oauth_scope", "oauth_jwks", "oauth_introspection")
        if others := [each for each in names if given.get(each) is not None]:
            raise StartError(f"--{others[0].replace('_', '-')} needs --oauth-issuer.")
        return None
    if not options.http:
        raise StartError("--oauth-issuer needs --http: over stdio the client started this server itself.")
    client_id = secret = None
    if options.oauth_introspection is not None:
        client_id, colon, secret = os.environ.get(CLIENT_VARIABLE, "").partition(":")
        if not colon or not client_id or not secret:
            raise StartError(f"--oauth-introspection needs ${CLIENT_VARIABLE} as CLIENT_ID:SECRET.")
    try:
        return ProtectedResource(
            url=options.oauth_resource or own_url,
            issuer=options.oauth_issuer,
            audience=options.oauth_audience,
            scopes=tuple(options.oauth_scope or ()),
            jwks_uri=options.oauth_jwks,
            introspection_endpoint=options.oauth_introspection,
            client_id=client_id,
            client_secret=secret,
        )
    except ValueError as error:
        raise StartError(f"OAuth: {error} --oauth-resource, --oauth-issuer and the others set them.") from error


def with_reach(
    confinement: Confinement, resource: ProtectedResource, verifier: TokenVerifier | None
) -> Confinement:
    """Return a confinement that also lets the process ask the authorization server about keys and tokens."""
    from mcp_servers.fetch.reach import reach
    from mcp_servers.oauth.verifying import JWTVerifier

    jwks_uri = verifier.keys.jwks_uri if isinstance(verifier, JWTVerifier) else None
    asked = (resource.issuer, jwks_uri, resource.introspection_endpoint)
    needed = reach((port_of(url) for url in asked if url is not None), ())
    return replace(
        confinement,
        reads=(*confinement.reads, *needed.reads),
        connects=confinement.connects | needed.connects,
    )


def prepared_verifier(resource: ProtectedResource) -> JWTVerifier | IntrospectionVerifier:
    """Return a verifier that has the issuer's keys already: the process is confined after that.

    Raises:
        StartError: the keys cannot be fetched.
    """
    import anyio

    from mcp_servers.oauth.issuer_requests import IssuerUnavailable
    from mcp_servers.oauth.verifying import verifier_of

    verifier = verifier_of(resource)
    try:
        anyio.run(verifier.prepare)
    except IssuerUnavailable as error:
        raise StartError(f"--oauth-issuer: {error}") from error
    return verifier
