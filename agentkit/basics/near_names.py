"""Similar names for an unknown name, in bounded time: a name from a model or a server may have any length."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mcp_servers.failures import MAX_COMPARED_CHARS, nearest_names

MAX_NAME_CHARS = MAX_COMPARED_CHARS
"""Maximum length of a name in characters; a longer name matches none."""


def near_names(wanted: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return up to `n` names of `known` that resemble `wanted`, best match first."""
    return nearest_names(wanted, known, n=n, cutoff=cutoff)


def near_path(path: Path) -> str:
    """Return the sentence that a path does not exist, with the nearest name in its folder if there is one."""
    missing = path
    while missing.parent != missing and not missing.parent.exists():
        missing = missing.parent
    names: list[str] = []
    with suppress(OSError):  # the parent is a file, or cannot be read: nothing to suggest
        names = near_names(missing.name, (entry.name for entry in missing.parent.iterdir()))
    reason = f"{str(path)!r} does not exist"
    if missing != path:
        reason = f"{str(path)!r}: the folder {str(missing)!r} does not exist"
    return f"{reason}; did you mean {str(missing.parent / names[0])!r}?" if names else f"{reason}."
