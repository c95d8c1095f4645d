"""Command line and transports: stdio, or Streamable HTTP behind a bearer token.

A browser page can reach a loopback port (DNS rebinding: CVE-2025-66416 in the Python SDK before 1.23), so HTTP
always checks four things:

- the Host header and
- the Origin header against exact names with the real port (mcp's own `127.0.0.1:*` pattern also matches
  `127.0.0.1:1@evil`);
- a JSON content type of the body, which a page's form cannot set;
- a bearer token, which other local users do not have, or an access token of an authorization server
  (`mcp_servers.oauth`).

The kernel confines the process before the server is built, so files that the server reads at its start (a
database, a repository) are read under the confinement too. The HTTP port is bound before that, and no port after
it.

`mcp` takes half a second to import; it is imported only after the arguments are parsed, so `--help` is quick.
"""

from __future__ import annotations

import argparse
import hmac
import ipaddress
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mcp_servers.confinement.confining import confine
from mcp_servers.failures import StartError
from mcp_servers.oauth.options import add_oauth_arguments, prepared_verifier, resource_of, with_reach
from mcp_servers.uvicorn_settings import uvicorn_settings

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server
    from starlette.types import ASGIApp, Receive, Scope, Send

    from mcp_servers.confinement.declared import Confinement
    from mcp_servers.oauth.protected_resource import ProtectedResource
    from mcp_servers.oauth.verifying import TokenVerifier

TOKEN_VARIABLE = "MCP_SERVER_TOKEN"
MIN_TOKEN_CHARS = 16
"""Minimum characters of a token; with 64 letters they are 96 bits, too many to guess over HTTP."""
GENERATED_TOKEN_BYTES = 32
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
MCP_PATH = "/mcp"


def add_transport_arguments(parser: argparse.ArgumentParser, confined_to: str) -> None:
    """Add `--http`, `--host`, `--port` and `--token` to a server's parser.

    Args:
        parser: The server's parser.
        confined_to: Reach of the server's process, as a sentence of the help text.
    """
    group = parser.add_argument_group("transport", "stdio unless --http is given")
    group.add_argument("--http", action="store_true", help="serve Streamable HTTP instead of stdio")
    group.add_argument("--host", default="127.0.0.1", help="address to bind (default %(default)s)")
    group.add_argument("--port", type=int, default=0, help="port to bind (default: a free one, printed)")
    group.add_argument(
        "--token",
        default=os.environ.get(TOKEN_VARIABLE),
        help=f"bearer token that clients must send (default: ${TOKEN_VARIABLE}, else generated and printed)",
    )
    add_oauth_arguments(parser)
    parser.add_argument_group("confinement", confined_to)


def serve(build: Callable[[], Server[Any]], options: argparse.Namespace, confinement: Confinement | None) -> None:
    """Confine this process, build its server and serve until the client leaves (stdio) or it is stopped (HTTP).

    Args:
        build: Builds the server; its imports are done already.
        options: Parsed options of `add_transport_arguments`.
        confinement: Reach of the process; None: the kernel does not confine it.

    Raises:
        StartError: The host, port or token cannot be used, or `build` fails.
    """
    try:
        if options.http:
            _serve_http(build, confinement, options)
        else:
            resource_of(options, "")  # refuses options that are for HTTP
            notice = confine(confinement) if confinement else ""
            server = build()
            _tell(notice)
            _serve_stdio(server)
    except KeyboardInterrupt:
        pass


def _tell(notice: str) -> None:
    if notice:
        print(notice, file=sys.stderr, flush=True)


def _serve_stdio(server: Server[Any]) -> None:
    import anyio
    from mcp.server.stdio import stdio_server

    async def run() -> None:
        async with stdio_server() as (read_stream, write_stream):
            await server.run(read_stream, write_stream, server.create_initialization_options())

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # A thread blocks on standard input; the default handler of Python would make shutdown wait for it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    anyio.run(run)


def _serve_http(
    build: Callable[[], Server[Any]], confinement: Confinement | None, options: argparse.Namespace
) -> None:
    import uvicorn

    host, token = options.host, options.token
    check_host(host)
    check_token(token)
    listener = _listen(host, options.port)
    bound_port = listener.getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}{MCP_PATH}"
    resource = resource_of(options, url)
    verifier = None if resource is None else prepared_verifier(resource)
    if confinement and resource is not None:
        confinement = with_reach(confinement, resource, verifier)
    notice = confine(confinement) if confinement else ""
    server = build()
    secret = token or secrets.token_urlsafe(GENERATED_TOKEN_BYTES)
    print(f"{server.name}: {url}", file=sys.stderr)
    if resource is not None:
        print(f"access tokens: for {resource.url} of {resource.issuer}", file=sys.stderr)
    elif token is None:
        print(f"token: {secret}", file=sys.stderr)
    _tell(notice)
    sys.stderr.flush()
    if resource is None or verifier is None:
        app = http_app(server, host, bound_port, secret)
    else:
        app = oauth_app(server, host, bound_port, replace(resource, name=server.name), verifier)
    uvicorn.Server(uvicorn.Config(app, **uvicorn_settings())).run(sockets=[listener])


def http_app(server: Server[Any], host: str, port: int, token: str) -> ASGIApp:
    """Return the ASGI application: checks the token first, then the headers that a page could send, then MCP."""
    return RequireToken(_checked_app(server, host, [f"{name}:{port}" for name in allowed_names(host)]), token)


def oauth_app(
    server: Server[Any], host: str, port: int, resource: ProtectedResource, verifier: TokenVerifier
) -> ASGIApp:
    """Return the ASGI application: checks the access token first, and is also reached by the resource's host."""
    from mcp_servers.oauth.guard import RequireOAuth

    hosts = [*(f"{name}:{port}" for name in allowed_names(host)), resource.host]
    return RequireOAuth(_checked_app(server, host, hosts), resource, verifier)


def _checked_app(server: Server[Any], host: str, hosts: list[str]) -> ASGIApp:
    from mcp.server.transport_security import TransportSecuritySettings

    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=hosts,
        allowed_origins=[f"http://{name}" for name in hosts],
    )
    app = server.streamable_http_app(streamable_http_path=MCP_PATH, transport_security=security, host=host)
    return CheckHeaders(app, security.allowed_origins)


def allowed_names(host: str) -> tuple[str, ...]:
    """Return the host names under which clients may address a server bound to `host`."""
    if host == "localhost" or _address(host).is_loopback:
        return tuple(dict.fromkeys((*LOOPBACK_NAMES, f"[{host}]" if ":" in host else host)))
    return (f"[{host}]" if ":" in host else host,)


def check_host(host: str) -> None:
    """Refuse wildcard addresses and unknown names: the Host check needs one exact name.

    Raises:
        StartError: `host` is not `localhost` or a concrete IP address.
    """
    if host != "localhost" and _address(host).is_unspecified:
        raise StartError(f"--host {host} binds every interface; name the one address clients will use.")


def check_token(token: str | None) -> None:
    """Refuse a token that is guessable or cannot be sent in a header.

    Raises:
        StartError: The token is short or contains spaces or characters other than printable ASCII.
    """
    if token is None:
        return
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
        raise StartError(f"--token needs at least {MIN_TOKEN_CHARS} printable ASCII characters, no spaces.")


class RequireToken:
    """ASGI middleware that answers 401 unless the request carries the bearer token (RFC 6750)."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        """Guard `app` with `token`."""
        self._app = app
        self._expected = b"Bearer " + token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass lifespan events and authorised HTTP requests on."""
        if scope["type"] == "lifespan" or self._is_authorised(scope):
            await self._app(scope, receive, send)
            return
        headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b"Bearer token required"})

    def _is_authorised(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(values) == 1 and hmac.compare_digest(values[0], self._expected)


class CheckHeaders:
    """ASGI middleware that refuses requests that a web page can send and an MCP client does not.

    An Origin header, even an empty one, must be one of the server's own (MCP 2025-11-25, transports). A POST must
    have exactly one Content-Type, JSON, which a page cannot send without a preflight.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """Guard `app`, which pages of these origins may call."""
        self._app = app
        self._origins = {origin.encode("ascii") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on lifespan events and requests with acceptable headers."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, reason = refusal
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reason})

    def _refusal(self, scope: Scope) -> tuple[int, bytes] | None:
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if len(origins) > 1 or not self._origins.issuperset(origins):
            return 403, b"Origin is none of this server's"
        types = [value for name, value in scope["headers"] if name == b"content-type"]
        is_json = len(types) == 1 and types[0].split(b";", 1)[0].strip().lower() == b"application/json"
        if scope["method"] == "POST" and not is_json:
            return 415, b"Content-Type must be application/json"
        return None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is explicit, unlike in create_server: asyncio disables Nagle's algorithm only for sockets with
    # an explicit IPPROTO_TCP. Otherwise every answer waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise StartError(f"cannot listen on {host} port {port}: {error}") from error
    return listener


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        raise StartError(f"--host {host!r} is not 'localhost' or an IP address.") from None
