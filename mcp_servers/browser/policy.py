r"""Rules for reachable origins, and limits: pure functions without I/O or MCP.

Two parsers that read one URL differently are an attack (`http://good\@evil`, `http://good#@evil`, a tab in the
host). So this module does not repair a URL as browsers do (https://url.spec.whatwg.org): a URL that needs repair
is refused. Security does not depend on it: the tunnel in `tunnel.py` compares the host and port that Chromium
itself connects to with the allowed origins, whatever text they came from.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcp_servers.addresses import Address, is_public

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL_CHARS = 4_096
MAX_HOST_CHARS = 253  # RFC 1035, without the final dot
MAX_PORT = 65_535

_URL = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
# Chromium's spelling of a URL: user name and password are encoded, so that there is one @ at most.
_CANONICAL = re.compile(
    r"(?P<scheme>https?)://(?:[^/?#@]*@)?(?P<host>\[[^\]]+\]|[^/?#@:\[\]]+)(?::(?P<port>[0-9]{1,5}))?(?=[/?#]|$)"
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# WHATWG: a host whose last label is a number is parsed as an IPv4 address, in many notations.
_ENDS_IN_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")

# Schemes that a page may show in a frame or window without loading; requests from there are judged as usual.
_LOCAL_SCHEMES = ("about:", "blob:", "data:")


class BadUrl(ValueError):
    """A URL or origin that is refused; the text gives the reason and the expected form."""


@dataclass(frozen=True)
class Limits:
    """Limits of one call."""

    call_timeout_s: float = 25.0
    """Seconds for the longest call, start of the browser included; agentkit waits 30 s."""
    action_timeout_s: float = 5.0
    """Seconds for an element to become visible, enabled and still."""
    load_timeout_s: float = 12.0
    """Seconds until a document starts to arrive."""
    deed_timeout_s: float = 15.0
    """Seconds for one action or view, whatever it waits for; a page that needs longer is given up."""
    settle_s: float = 5.0
    """Longest wait, in seconds, for an action's effects."""
    quiet_s: float = 0.15
    """Seconds without loading after which an action is over."""
    max_outline_bytes: int = 24 * 1024
    """Bytes of one page of the outline: about 6,000 tokens, which leaves a small model room to answer."""
    max_line_chars: int = 400
    """Characters after which a line of the outline is wrapped."""
    max_elements: int = 30_000
    """Elements of a page, frames included, above which it gets no outline: three seconds, and 10 MB, of tree."""
    max_page_chars: int = 4_000_000
    """Characters of a page, scripts and styles included, above which it gets no outline."""
    max_memory_bytes: int = 1_000_000_000
    """Memory limit of all Chromium processes; a page that exceeds it is ended. An empty page uses 250 MB."""


@dataclass(frozen=True, order=True)
class Origin:
    """Scheme, host and port; a host is lower case, an IPv6 address compressed and without brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if DEFAULT_PORTS[self.scheme] == self.port else f":{self.port}")


class AllowedOrigins:
    """Origins that pages may be loaded from and connect to."""

    def __init__(self, origins: Iterable[Origin]) -> None:
        """Allow `origins`, exactly."""
        self._origins = frozenset(origins)

    def __contains__(self, origin: Origin) -> bool:
        return origin in self._origins

    def __str__(self) -> str:
        return ", ".join(map(str, sorted(self._origins)))

    def may_show(self, url: str) -> bool:
        """Return whether a document may come from `url`, in Chromium's spelling."""
        match = _CANONICAL.match(url)
        if match is None:
            return url.startswith(_LOCAL_SCHEMES)
        port = int(match["port"] or DEFAULT_PORTS[match["scheme"]])
        return Origin(match["scheme"], canonical_host(match["host"].strip("[]")), port) in self

    def schemes_at(self, host: str, port: int) -> frozenset[str]:
        """Return the schemes allowed at `port` of `host`; empty if it must not be reached."""
        canonical = canonical_host(host)
        return frozenset(o.scheme for o in self._origins if (o.host, o.port) == (canonical, port))


def parse_url(text: str) -> Origin:
    """Return the origin of an absolute http or https URL.

    Raises:
        BadUrl: The text is not such a URL, or browsers would have to repair it.
    """
    return _split(text)[0]


def parse_origin(text: str) -> Origin:
    """Return an origin written as `https://host` or `http://host:port`.

    Raises:
        BadUrl: The text is not an origin, or has a path.
    """
    origin, rest = _split(text)
    if rest not in ("", "/"):
        raise BadUrl(f"An origin ends with its host or port; {rest[:80]!r} is more than that.")
    return origin


def canonical_host(host: str) -> str:
    """Return a host in the form of `Origin`; names are only put in lower case."""
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        return host.lower()


def reachable(host: str, addresses: Sequence[Address], *, was_public: bool) -> list[Address]:
    """Return the addresses, out of those of its name, at which an allowed host may be connected.

    A link-local address, where clouds keep a machine's credentials, must be allowed as an address.
    """
    if addresses and canonical_host(host) == addresses[0].compressed:
        return list(addresses)
    public = [address for address in addresses if is_public(address)]
    if public or was_public:
        return public
    return [address for address in addresses if not address.is_link_local]


def _split(text: str) -> tuple[Origin, str]:
    if len(text) > MAX_URL_CHARS:
        raise BadUrl(f"The URL has {len(text)} characters; at most {MAX_URL_CHARS} are allowed.")
    if not text.isprintable() or " " in text or "\\" in text:
        raise BadUrl("A URL has no spaces, control or invisible characters and no backslashes; write %20 and /.")
    match = _URL.fullmatch(text)
    if match is None or match["scheme"].lower() not in DEFAULT_PORTS:
        raise BadUrl(f"{text[:80]!r} does not start with http:// or https://; no other kind of address is opened.")
    scheme = match["scheme"].lower()
    authority = _AUTHORITY.fullmatch(match["authority"])
    if authority is None:
        raise BadUrl(
            f"{match['authority'][:80]!r} is not host or host:port. User names are not allowed; names of other "
            "alphabets are written as xn--..., IPv6 addresses in []."
        )
    port = int(authority["port"] or DEFAULT_PORTS[scheme])
    if not 1 <= port <= MAX_PORT:
        raise BadUrl(f"Port {port} does not exist.")
    return Origin(scheme, _checked_host(authority["host"].lower()), port), match["rest"]


def _checked_host(host: str) -> str:
    try:
        if host.startswith("["):
            return ipaddress.IPv6Address(host[1:-1]).compressed
        if _ENDS_IN_NUMBER.fullmatch(host):
            return ipaddress.IPv4Address(host).compressed
    except ValueError:
        raise BadUrl(f"{host!r} is not an IP address. Write it like 192.0.2.7 or [2001:db8::7].") from None
    if len(host) > MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise BadUrl(f"{host[:80]!r} is not a host name. It has no empty parts and does not end with a dot.")
    return host
