"""Text without lone surrogates, which JSON escapes can represent and UTF-8 cannot.

A server that splits its deltas by UTF-16 units sends one emoji as two halves; they are joined here. A lone half
becomes U+FFFD, so that every text can be stored and sent. Python represents file names and arguments that are not
UTF-8 with lone surrogates, and tools return them.
"""

from __future__ import annotations

from typing import Any, cast


def well_formed(text: str) -> str:
    """Join surrogate pairs in `text` and replace lone halves."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def well_formed_data(value: Any) -> Any:
    """Apply `well_formed` to every string in JSON-like data; other values stay unchanged."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {well_formed_data(key): well_formed_data(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [well_formed_data(item) for item in cast("list[Any]", value)]
    return value


class SurrogateJoiner:
    """Applies `well_formed` to streamed text: holds a trailing first half until the second half arrives."""

    def __init__(self) -> None:
        """Start with no held text."""
        self._held = ""

    def push(self, text: str) -> str:
        """Return the complete text after `text` arrived."""
        text = self._held + text
        self._held = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return well_formed(text[: len(text) - len(self._held)])

    def flush(self) -> str:
        """Return the held rest at the end of the text."""
        held, self._held = self._held, ""
        return well_formed(held)
