r"""Which origins may be reached, and how much is told: pure rules, no I/O, no MCP.

Two parsers that read one URL differently are an attack (`http://good\@evil`, `http://good#@evil`, a tab in the
host). So nothing here repairs a URL as browsers do (https://url.spec.whatwg.org): what a browser would have to
repair is refused. And nothing depends on it: the tunnel in `tunnel.py` compares the host and port that
Chromium itself asks for with the allowed origins, whatever text they came from.
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
# As Chromium writes a URL: user name and password encoded, so that there is one @ at most.
_CANONICAL = re.compile(
    r"(?P<scheme>https?)://(?:[^/?#@]*@)?(?P<host>\[[^\]]+\]|[^/?#@:\[\]]+)(?::(?P<port>[0-9]{1,5}))?(?=[/?#]|$)"
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# WHATWG: a host whose last label is a number is read as an IPv4 address, in many notations.
_ENDS_IN_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")

# What a page may put in a frame or window without loading it from anywhere; its own requests are judged as any.
_LOCAL_SCHEMES = ("about:", "blob:", "data:")


class BadUrl(ValueError):
    """A URL or origin that is not taken; the text says why and what to write instead."""


@dataclass(frozen=True)
class Limits:
    """Caps of one call."""

    call_timeout_s: float = 25.0
    """Longest call, start of the browser included; agentkit waits 30 s."""
    action_timeout_s: float = 5.0
    """Time for an element to become visible, enabled and still."""
    load_timeout_s: float = 12.0
    """Time for a document to begin to arrive."""
    deed_timeout_s: float = 15.0
    """Time for one deed or look, whatever it waits for; a page that needs longer is given up."""
    settle_s: float = 5.0
    """Longest wait for what an action set going."""
    quiet_s: float = 0.15
    """An action is over when nothing has been loading for this long."""
    max_outline_bytes: int = 24 * 1024
    """One page of the outline: about 6,000 tokens, which leaves a small model's context room to answer."""
    max_line_chars: int = 400
    """Longer lines of the outline go on in the next."""
    max_elements: int = 30_000
    """A page with more, its frames included, gets no outline: three seconds, and 10 MB, of tree."""
    max_page_chars: int = 4_000_000
    """The same for its text, scripts and styles included."""
    max_memory_bytes: int = 1_000_000_000
    """Of Chromium's processes together; a page that makes them take more is ended. An empty one takes 250 MB."""


@dataclass(frozen=True, order=True)
class Origin:
    """Scheme, host and port; a host is lower case, an IPv6 address without brackets in its shortest form."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if DEFAULT_PORTS[self.scheme] == self.port else f":{self.port}")


class AllowedOrigins:
    """The origins that pages may be loaded from and may talk to."""

    def __init__(self, origins: Iterable[Origin]) -> None:
        """Allow `origins`, exactly."""
        self._origins = frozenset(origins)

    def __contains__(self, origin: Origin) -> bool:
        return origin in self._origins

    def __str__(self) -> str:
        return ", ".join(map(str, sorted(self._origins)))

    def may_show(self, url: str) -> bool:
        """Return whether a document may come from `url`, which is written as Chromium writes it."""
        match = _CANONICAL.match(url)
        if match is None:
            return url.startswith(_LOCAL_SCHEMES)
        port = int(match["port"] or DEFAULT_PORTS[match["scheme"]])
        return Origin(match["scheme"], canonical_host(match["host"].strip("[]")), port) in self

    def schemes_at(self, host: str, port: int) -> frozenset[str]:
        """Return the schemes that may be spoken with `port` of `host`; none where it must not be reached."""
        canonical = canonical_host(host)
        return frozenset(o.scheme for o in self._origins if (o.host, o.port) == (canonical, port))


def parse_url(text: str) -> Origin:
    """Return the origin of an absolute http or https URL.

    Raises:
        BadUrl: it is none, or browsers would have to repair it.
    """
    return _split(text)[0]


def parse_origin(text: str) -> Origin:
    """Return an origin written as `https://host` or `http://host:port`.

    Raises:
        BadUrl: it is none, or has a path.
    """
    origin, rest = _split(text)
    if rest not in ("", "/"):
        raise BadUrl(f"An origin ends with its host or port; {rest[:80]!r} is more than that.")
    return origin


def canonical_host(host: str) -> str:
    """Return a host as `Origin` holds it; what is no address is only put in lower case."""
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        return host.lower()


def reachable(host: str, addresses: Sequence[Address], *, was_public: bool) -> list[Address]:
    """Return the addresses at which an allowed host may be connected to, out of those its name has.

    A link-local address, where clouds keep a machine's credentials, has to be allowed as an address.
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
