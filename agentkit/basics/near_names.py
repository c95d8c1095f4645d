"""Similar names for an unknown name, in bounded time: a name from a model or a server may have any length."""

from __future__ import annotations

from collections.abc import Iterable

from mcp_servers.failures import MAX_COMPARED_CHARS, nearest_names

MAX_NAME_CHARS = MAX_COMPARED_CHARS
"""Maximum length of a name in characters; a longer name matches none."""


def near_names(wanted: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return up to `n` names of `known` that resemble `wanted`, best match first."""
    return nearest_names(wanted, known, n=n, cutoff=cutoff)
