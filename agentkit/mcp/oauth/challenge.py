"""The Bearer challenge of a refused request: `WWW-Authenticate` as RFC 9110 and RFC 6750 define it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_HEADER_CHARS = 8_192
MAX_SCOPES = 100
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PART = re.compile(
    rf'\s*(?:,\s*)*(?:(?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]+))'
    rf"|(?P<scheme>{_TOKEN})(?=\s|,|$))"
)
"""A parameter of the current scheme, or the name of the next scheme."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Parameters of a Bearer challenge; all are untrusted."""

    error: str | None = None
    scopes: tuple[str, ...] | None = None
    resource_metadata: str | None = None
    """URL of the protected resource metadata (RFC 9728)."""


def bearer_challenge(headers: Iterable[str]) -> Challenge:
    """Return the first Bearer challenge of `WWW-Authenticate` headers; an empty one if there is none.

    Parsing ends at the first text that is not a challenge.
    """
    found: dict[str, str] = {}
    for header in headers:
        for scheme, name, value in _parameters(header[:MAX_HEADER_CHARS]):
            if scheme == "bearer":
                found.setdefault(name, value)
        if found:
            break
    scopes = found.get("scope")
    return Challenge(
        found.get("error"),
        None if scopes is None else tuple(dict.fromkeys(scopes.split()))[:MAX_SCOPES],
        found.get("resource_metadata"),
    )


def _parameters(header: str) -> Iterable[tuple[str, str, str]]:
    """Yield scheme, name and value of each parameter."""
    scheme, position = "", 0
    while (part := _PART.match(header, position)) is not None:
        position = part.end()
        if part["scheme"] is not None:
            scheme = part["scheme"].lower()
        elif part["quoted"] is not None:
            yield scheme, part["name"].lower(), re.sub(r"\\(.)", r"\1", part["quoted"])
        else:
            yield scheme, part["name"].lower(), part["plain"]
