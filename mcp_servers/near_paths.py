"""The nearest name for a path that does not exist.

It stands here because this package is below all others, like `distribution`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mcp_servers.failures import nearest_names


def near_path(path: Path) -> str:
    """Return the sentence that a path does not exist, with the nearest name in its folder if there is one."""
    missing = _first_missing(path)
    reason = f"{str(path)!r} does not exist"
    if missing != path:
        reason = f"{str(path)!r}: the folder {str(missing)!r} does not exist"
    near = nearest_path(path)
    return f"{reason}; did you mean {str(near)!r}?" if near else f"{reason}."


def nearest_path(path: Path) -> Path | None:
    """Return the existing path nearest to `path`, by the first missing name; None if no name is similar."""
    missing = _first_missing(path)
    names: list[str] = []
    with suppress(OSError):  # the parent is a file, or cannot be read: nothing to suggest
        names = nearest_names(missing.name, (entry.name for entry in missing.parent.iterdir()), n=1)
    return missing.parent / names[0] if names else None


def _first_missing(path: Path) -> Path:
    while path.parent != path and not path.parent.exists():
        path = path.parent
    return path
