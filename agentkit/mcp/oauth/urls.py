"""URLs that an MCP server or an authorization server names: only https, or http on this machine.

Each is untrusted: it may lead the client into a private network, to another scheme, or into the command line of a
browser (CVE-2025-6514 in mcp-remote: an authorization endpoint that was run as a command).
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

MAX_URL_CHARS = 2_048
_ALLOWED = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!&()*+,;=%-]+")
"""RFC 3986's characters without `$` and `'`, which have a meaning to shells."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


class UntrustedURL(Exception):
    """A URL of a server has a form that is not allowed."""


def checked_url(url: str, name: str, *, error: type[Exception] = UntrustedURL) -> SplitResult:
    """Return the parts of a URL that may be requested or opened.

    Args:
        url: The URL.
        name: Name of the value, for the message.
        error: Class of the error that is raised.

    Raises:
        UntrustedURL: it is neither https nor http on loopback, or has a user name, a fragment or odd characters.
    """
    shown = url[:200]
    if len(url) > MAX_URL_CHARS or not _ALLOWED.fullmatch(url):
        raise error(f"{name}={shown!r}: a URL has at most {MAX_URL_CHARS} characters, those of RFC 3986.")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as reason:
        raise error(f"{name}={shown!r} is not a URL: {reason}.") from reason
    if not host or parts.username is not None or parts.password is not None or "#" in url:
        raise error(f"{name}={shown!r}: a URL needs a host, and has no user name and no fragment here.")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise error(f"{name}={shown!r} must be https; http is allowed for this machine only.")
    return parts


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine by its form; no name is resolved."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return (
        parts.scheme.lower(),
        (parts.hostname or "").lower(),
        parts.port or _DEFAULT_PORTS.get(parts.scheme.lower()),
    )


def covers(resource: str, url: str) -> bool:
    """Return whether a URL belongs to a protected resource: same origin, and a path at or below the resource's."""
    inner, outer = urlsplit(url), urlsplit(resource)
    if origin_of(url) != origin_of(resource) or outer.query or outer.fragment:
        return False
    return f"{inner.path.rstrip('/')}/".startswith(f"{outer.path.rstrip('/')}/")
