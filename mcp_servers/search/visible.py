"""The text of files as it is indexed and shown: one kind of line end, no hidden characters."""

from __future__ import annotations

import re

from mcp_servers import hidden

# They separate words, so a space takes their place.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def visible(text: str) -> str:
    """Return `text` with what cannot be seen removed and with a line feed as the only line end."""
    return hidden.visible(_CONTROLS.sub(" ", text.replace("\r\n", "\n")))


def decoded(data: bytes) -> str:
    """Return text out of an index file as it may be shown: anybody may have written the file."""
    return visible(data.decode("utf-8", "replace"))
