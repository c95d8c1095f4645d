"""Statements of a page or HTTP response about its licence and its use by machines.

Robots: the `X-Robots-Tag` field and `<meta name="robots">` (Google's robots meta tag specification; `noai` is
DeviantArt's addition of 2022), and the TDM Reservation Protocol (W3C community group report, 2024), whose value
`1` is recorded as the directive `tdm-reservation`. Licence: `rel="license"` (HTML, section 4.6.7.5) in a link or a
field. A directive for a single crawler is recorded as `name: directive`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_VALUES = 32
"""Maximum values of a kind from one page; no genuine page has more."""
MAX_VALUE_CHARACTERS = 500
_META = re.compile(r"<[mM][eE][tT][aA]\s([^<>]{1,2000})")
_LINK = re.compile(r"<(?:[lL][iI][nN][kK]|[aA])\s([^<>]{1,2000})")
_ATTRIBUTE = re.compile(r"""([a-z:-]{1,20})\s{0,9}=\s{0,9}(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)
_LINK_FIELD = re.compile(r"<([^<>]{1,500})>([^<]{0,500})")
_HAS_VALUE = ("max-snippet", "max-image-preview", "max-video-preview", "unavailable_after")


def note_rights_of_page(metadata: dict[str, Any], page: str) -> None:
    """Add a page's robots directives and licence links to `metadata["robots"]` and `metadata["license_urls"]`."""
    for text in _META.findall(page):
        _note_meta(metadata, dict(_attributes(text)))
    if "icens" not in page and "ICENS" not in page:
        return
    for text in _LINK.findall(page):
        if "icens" in text or "ICENS" in text:
            attributes = dict(_attributes(text))
            if "license" in attributes.get("rel", "").lower().split():
                _add(metadata, "license_urls", [attributes.get("href", "")])


def note_rights_of_fields(metadata: dict[str, Any], fields: Mapping[str, str]) -> None:
    """Add the same statements from HTTP fields (lower-case names)."""
    _add(metadata, "robots", _directives(fields.get("x-robots-tag", "")))
    if fields.get("tdm-reservation", "").strip() == "1":
        _add(metadata, "robots", ["tdm-reservation"])
    for target, parameters in _LINK_FIELD.findall(fields.get("link", "")):
        if re.search(r"""rel\s{0,9}=\s{0,9}["']?[^"',;]*\blicense\b""", parameters, re.IGNORECASE):
            _add(metadata, "license_urls", [target])


def _note_meta(metadata: dict[str, Any], attributes: Mapping[str, str]) -> None:
    name, content = attributes.get("name", "").lower().strip(), attributes.get("content", "")
    if name == "robots":
        _add(metadata, "robots", _directives(content))
    elif name == "tdm-reservation" and content.strip() == "1":
        _add(metadata, "robots", ["tdm-reservation"])


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    for name, double, single, bare in _ATTRIBUTE.findall(text):
        yield name.lower(), html.unescape(double or single or bare)


def _directives(text: str) -> list[str]:
    """Return directives in lower case; those after `crawler:` are prefixed with the crawler's name."""
    found, crawler = [], ""
    for part in text.lower().split(","):
        name, colon, value = part.partition(":")
        name, value = name.strip(), value.strip()
        if colon and name not in _HAS_VALUE:
            crawler, name, colon = f"{name}: ", value, ""
        if name:
            found.append(f"{crawler}{name}:{value}" if colon else f"{crawler}{name}")
    return found


def _add(metadata: dict[str, Any], key: str, values: list[str]) -> None:
    new = [value.strip()[:MAX_VALUE_CHARACTERS] for value in values if value.strip()]
    if new:
        # In order of appearance, without duplicates.
        metadata[key] = list(dict.fromkeys([*metadata.get(key, ()), *new]))[:MAX_VALUES]
