"""Normalisation of text for indexing and display: one kind of line end, no hidden characters."""

from __future__ import annotations

import re

from mcp_servers import hidden

# They separate words, so each is replaced by a space.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def visible(text: str) -> str:
    """Return `text` without invisible characters and with line feeds as the only line ends."""
    return hidden.visible(_CONTROLS.sub(" ", text.replace("\r\n", "\n")))


def decoded(data: bytes) -> str:
    """Decode text from an index file for display; the file may be untrusted."""
    return visible(data.decode("utf-8", "replace"))
