"""Shared parts of the Java and JavaScript literal converters."""

from __future__ import annotations

import re

SPACE = re.compile(r"\s*")
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


def after_space(text: str, at: int) -> int:
    """Return the position of the first character from `at` on that is no white space."""
    space = SPACE.match(text, at)
    assert space is not None  # the pattern matches the empty string
    return space.end()
