"""Media types of files by the ending of their names.

Only the tables of Python itself are used: `mimetypes.guess_type` reads files of the system, which a confined
process may not.
"""

from __future__ import annotations

import mimetypes
from pathlib import PurePosixPath

_OWN = {
    ".c": "text/x-c",
    ".go": "text/x-go",
    ".ipynb": "application/json",
    ".md": "text/markdown",
    ".rs": "text/x-rust",
    ".sh": "text/x-sh",
    ".sql": "application/sql",
    ".toml": "application/toml",
    ".ts": "text/x-typescript",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
_TEXT = ("text/", "application/json", "application/sql", "application/toml", "application/yaml", "application/xml")
_ALSO_TEXT = ("application/javascript", "application/x-sh", "image/svg+xml")


def media_type(name: str, *, is_text: bool) -> str:
    """Return the media type of a file whose content is text or not, whatever its name says."""
    suffix = PurePosixPath(name).suffix.lower()
    guessed = _OWN.get(suffix) or mimetypes.types_map.get(suffix) or ""
    if is_text:
        return guessed if guessed.startswith(_TEXT) or guessed in _ALSO_TEXT else "text/plain"
    return guessed if guessed and not guessed.startswith(_TEXT) else "application/octet-stream"
