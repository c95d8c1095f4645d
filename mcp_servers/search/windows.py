"""Windows of a passage: the texts that are embedded, as short as the embedding model reads them.

A passage has up to 4,000 characters and the model reads about 1,000. A window consists of whole lines, or of a
piece of one very long line, and has the passage's headings before it: they often name its subject.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

WINDOW_CHARS = 900
"""Characters of a window without its headings: about 230 of the model's 256 tokens in English."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a passage that gets a vector."""

    line: int
    """Offset of its first line from that of the passage."""
    text: str


def windows_of(heading: str, text: str) -> list[Window]:
    """Return the windows of a passage in order; of a blank passage none."""
    head = f"{heading}\n" if heading else ""
    return [Window(line, head + part) for line, part in _parts(text) if part.strip()]


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Yield the offset of the first line and the text of parts of at most `WINDOW_CHARS` characters."""
    held, first, size = list[str](), 0, 0
    for number, line in enumerate(text.split("\n")):
        if held and size + len(line) > WINDOW_CHARS:
            yield first, "\n".join(held)
            held, size = [], 0
        if not held:
            first = number
        while len(line) > WINDOW_CHARS:
            cut = line.rfind(" ", WINDOW_CHARS // 2, WINDOW_CHARS) + 1 or WINDOW_CHARS
            yield number, line[:cut]
            line = line[cut:]
        held.append(line)
        size += len(line) + 1
    yield first, "\n".join(held)
