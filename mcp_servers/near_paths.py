"""The nearest name for a path that does not exist.

It stands here because this package is below all others, like `distribution`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mcp_servers.failures import nearest_names


def near_path(path: Path) -> str:
    """Return the sentence that a path does not exist, with the nearest name in its folder if there is one."""
    missing = path
    while missing.parent != missing and not missing.parent.exists():
        missing = missing.parent
    names: list[str] = []
    with suppress(OSError):  # the parent is a file, or cannot be read: nothing to suggest
        names = nearest_names(missing.name, (entry.name for entry in missing.parent.iterdir()), n=1)
    reason = f"{str(path)!r} does not exist"
    if missing != path:
        reason = f"{str(path)!r}: the folder {str(missing)!r} does not exist"
    return f"{reason}; did you mean {str(missing.parent / names[0])!r}?" if names else f"{reason}."
