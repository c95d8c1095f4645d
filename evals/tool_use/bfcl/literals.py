"""Shared parts of the Java and JavaScript literal converters."""

from __future__ import annotations

MAX_LITERAL_CHARS = 10_000
"""Longer text is not converted: no key is that long, and conversion may take quadratic time."""


class UnsupportedTypeError(ValueError):
    """Raised if the schema declares a type whose literals BFCL's rules do not convert."""


def number_or_text(text: str) -> int | float | str:
    """Return the text as int or float if Python can convert it, else unchanged."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
