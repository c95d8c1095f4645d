"""Rules for addresses that may be requested and for decoding answers: pure functions without I/O or MCP.

A fetcher gives access to its own network: cloud metadata, admin pages on loopback, printers. Checking the text of
a URL is not enough: `127.1`, `2130706433` and a name that resolves to 127.0.0.1 are all the same. So a URL is
parsed here once, and each address that its name resolves to is checked against the tables of
`mcp_servers.addresses` at the moment of connecting (`network.py`).
"""

from __future__ import annotations

import codecs
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

import idna

from mcp_servers.failures import StartError, ToolFailure

DEFAULT_PORTS = {"http": 80, "https": 443}
PORTS = frozenset({80, 443, 8080, 8443})
MAX_URL_CHARS = 2_000
"""Characters of a URL."""
MAX_REDIRECTS = 5
"""Redirects that are followed."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Limits:
    """Limits of one call."""

    total_seconds: float = 20.0
    """Seconds for the whole call: DNS, robots.txt, redirects, the body. agentkit waits 30 s for a call."""
    extract_seconds: float = 8.0
    """Seconds to convert a page to Markdown."""
    wire_bytes: int = 5 * 1024 * 1024
    """Size of one body as it is sent."""
    decoded_bytes: int = 10 * 1024 * 1024
    """Size of one body after decompression."""
    robots_bytes: int = 512 * 1024
    """Size of robots.txt; RFC 9309 requires at least 500 KiB."""
    page_chars: int = 24_000
    """Characters of one page of the answer: about 6,000 tokens."""
    kept_documents: int = 16
    """Documents cached for requests of their next pages."""
    kept_seconds: float = 300.0
    """Seconds for which cached documents are served without a new request."""


@dataclass(frozen=True)
class Target:
    """A parsed URL: the connection uses exactly the parts that were checked."""

    scheme: str
    host: str
    """Host in lower case and ASCII; an IPv6 address without brackets."""
    port: int
    path: str
    """Path and query, percent-encoded."""

    @property
    def origin(self) -> str:
        """Scheme, host and port; the port is always written."""
        return f"{self.scheme}://{self.host_text}:{self.port}"

    @property
    def host_text(self) -> str:
        """The host as a URL writes it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        return self.host_text if self.port == DEFAULT_PORTS[self.scheme] else f"{self.host_text}:{self.port}"

    @property
    def url(self) -> str:
        """Complete URL."""
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_url(text: str, allowed_origins: frozenset[str] = frozenset()) -> Target:
    """Parse a URL that is to be fetched.

    Args:
        text: The URL; a fragment (`#...`) is dropped.
        allowed_origins: Origins that may have a port other than the usual ones.

    Raises:
        ToolFailure: The URL is invalid or may not be fetched.
    """
    target = _parsed(text)
    if target.port not in PORTS and target.origin not in allowed_origins:
        raise ToolFailure(
            f"Port {target.port} of {text!r} is not fetched; {', '.join(map(str, sorted(PORTS)))} are."
        )
    return target


def _parsed(text: str) -> Target:
    """Parse a URL; refuse everything that two parsers could read differently."""
    if len(text) > MAX_URL_CHARS:
        raise ToolFailure(f"The URL has {len(text)} characters; at most {MAX_URL_CHARS} are fetched.")
    # Browsers drop tabs and line ends and read `\` as `/`; urlsplit does only the former.
    if not text or any(char <= " " or char in '\\<>"`{}|^' or not char.isprintable() for char in text):
        raise ToolFailure(
            f"{text!r} is no URL: it is empty, or has spaces or characters that need percent-encoding."
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ToolFailure(f"{text!r} is no URL: {error}.") from error
    scheme = parts.scheme.lower()
    if scheme not in DEFAULT_PORTS or not text[len(scheme) :].startswith("://"):
        raise ToolFailure(f"{text!r}: only http:// and https:// are fetched.")
    if "@" in parts.netloc:
        raise ToolFailure(f"{text!r} has a name or password before '@', which is not sent. Leave it out.")
    return Target(
        scheme=scheme,
        host=_host(parts.hostname or ""),
        port=DEFAULT_PORTS[scheme] if port is None else port,
        path=quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        + (f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?[]')}" if parts.query else ""),
    )


def _host(text: str) -> str:
    host = text.rstrip(".").lower()
    if not host or "%" in host:
        raise ToolFailure(f"{text!r} is no host to fetch from. Write a name, as example.org.")
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError as error:
            raise ToolFailure(f"{text!r} is no IPv6 address.") from error
    try:
        ascii_host = host if host.isascii() else idna.encode(host, uts46=True, transitional=False).decode()
    except (idna.IDNAError, UnicodeError) as error:
        raise ToolFailure(f"{text!r} is no host name: {error}.") from error
    if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", ascii_host) or ".." in ascii_host:
        raise ToolFailure(f"{text!r} is no host name. Write one as example.org.")
    return ascii_host


def redirected(target: Target, location: str, allowed_origins: frozenset[str] = frozenset()) -> Target:
    """Return the target of a redirect; the same rules apply to it.

    Raises:
        ToolFailure: The target may not be fetched.
    """
    try:
        url = urljoin(target.url, location)
    except ValueError as error:
        raise ToolFailure(f"{target.url} redirects to {location[:200]!r}, which is no URL.") from error
    try:
        return parse_url(url, allowed_origins)
    except ToolFailure as failure:
        raise ToolFailure(f"{target.url} redirects to something that is not fetched. {failure}") from failure


def parse_allowed(text: str) -> str:
    """Return the origin of an `--allow` option, which may have any address, even loopback.

    Raises:
        StartError: The text is not an origin.
    """
    try:
        target = _parsed(text)
    except ToolFailure as failure:
        raise StartError(f"--allow: {failure}") from failure
    if target.path != "/":
        raise StartError(f"--allow {text!r}: an origin has no path; write {target.origin}.")
    return target.origin


def is_text(content_type: str) -> bool:
    """Return whether a media type is text that can be shown; a missing one may be."""
    name = media_type(content_type)
    return (
        not name
        or name.startswith("text/")
        or name.endswith(("+xml", "+json"))
        or name in ("application/json", "application/xml", "application/javascript", "application/x-ndjson",
                    "application/yaml", "application/toml", "application/x-sh")
    )  # fmt: skip


def is_html(content_type: str, text: str) -> bool:
    """Return whether a text is an HTML page."""
    name = media_type(content_type)
    if name in ("text/html", "application/xhtml+xml"):
        return True
    return not name and re.match(r"\s*(<!doctype html|<html|<head|<body)", text[:1_000], re.IGNORECASE) is not None


_MAX_MEDIA_TYPE = 127 + 1 + 127
"""Maximum characters of a type and a subtype (RFC 6838, section 4.2)."""


def media_type(content_type: str) -> str:
    """Return the media type of a Content-Type header, without its parameters."""
    return content_type[:MAX_CONTENT_TYPE].split(";", 1)[0].strip().lower()[:_MAX_MEDIA_TYPE]


# Encodings of the Encoding Standard (https://encoding.spec.whatwg.org). It excludes UTF-7; Python's own codecs for
# escapes and compression are not text encodings.
_ENCODINGS = frozenset(
    {
        "ascii", "big5", "big5hkscs", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256",
        "cp1257", "cp1258", "cp866", "cp874", "cp932", "cp949", "euc_jp", "euc_kr", "gb18030", "gb2312", "gbk",
        "iso2022_jp", "iso8859-1", "iso8859-10", "iso8859-13", "iso8859-14", "iso8859-15", "iso8859-16",
        "iso8859-2", "iso8859-3", "iso8859-4", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8", "koi8-r",
        "koi8-u", "mac-cyrillic", "mac-roman", "shift_jis", "tis-620", "utf-16", "utf-16-be", "utf-16-le", "utf-8",
    }
)  # fmt: skip
MAX_CONTENT_TYPE = 1_000
"""Maximum characters parsed of a Content-Type; the pattern bounds repetitions too, as spaces took minutes."""
_CHARSET = r"charset\s{0,20}=\s{0,20}[\"']?\s{0,20}([A-Za-z0-9_.:-]{1,40})"
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?" + _CHARSET.encode(), re.IGNORECASE)
_HEADER_CHARSET = re.compile(_CHARSET, re.IGNORECASE)
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def decode_text(body: bytes, content_type: str) -> str:
    """Decode a body by its byte order mark, header or `<meta>`, else as UTF-8 or Windows-1252."""
    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    declared = _HEADER_CHARSET.search(content_type[:MAX_CONTENT_TYPE])
    names = [declared[1]] if declared else []
    if found := _META_CHARSET.search(body[:2_048]):
        names.append(found[1].decode("ascii"))
    for name in names:
        if (codec := _known_encoding(name)) is not None:
            # Pages declare ISO 8859-1 and mean Windows-1252 (Encoding Standard, section 4.2).
            return body.decode("cp1252" if codec in ("iso8859-1", "ascii") else codec, "replace")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace")


def _known_encoding(name: str) -> str | None:
    try:
        codec = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    return codec if codec in _ENCODINGS else None


def pages_of(text: str, page_chars: int) -> list[str]:
    """Split a text into pages, preferably between paragraphs or lines; joined they give the text again."""
    pages, start = [], 0
    while len(text) - start > page_chars:
        end = max(text.rfind("\n\n", start, start + page_chars) + 2, start)
        if end - start < page_chars // 2:
            end = text.rfind("\n", start, start + page_chars) + 1
        if end - start < page_chars // 2:
            end = start + page_chars
        pages.append(text[start:end])
        start = end
    return [*pages, text[start:]]
