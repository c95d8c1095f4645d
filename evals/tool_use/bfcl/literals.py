"""What the readers of Java and JavaScript literals share."""

from __future__ import annotations

MAX_LITERAL_CHARS = 10_000
"""Longer text is left as it is: no key comes near, and the time to read a literal may grow with its square."""


class UnsupportedTypeError(ValueError):
    """The schema declares a type whose literals the rules of BFCL do not read."""


def number_or_text(text: str) -> int | float | str:
    """Return an integer or float as Python reads it, else the text."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
