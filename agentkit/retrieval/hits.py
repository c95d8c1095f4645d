"""Hits of a search, their citations, and the text in which a model reads them.

A passage may be written to look like another source ("[2] policy.md"). So the lines of a passage are indented, and
only the labels of real sources begin at the left edge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DEFAULT_MAX_CHARS = 12_000
"""Characters of rendered sources: about 3,000 tokens."""
INDENT = "    "
_LABEL = re.compile(r"\[([^\[\]\n]{1,1100})\]")


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a search found."""

    text: str
    """The whole passage, without hidden characters."""
    path: str
    """Path of the file, relative to the folder, with `/` between its parts."""
    first_line: int
    """First line, from 1, counted within the page of a PDF; 0 if only the name of the file is indexed."""
    last_line: int
    page: int | None
    """Page of a PDF, from 1; None for other files."""
    score: float
    """Higher is better; comparable within one search only."""
    heading: str = ""
    """Headings above the passage, outermost first; for code, the names that it defines."""
    note: str = ""
    """Whether the file has changed or was deleted since it was indexed; empty if neither."""

    @property
    def citation(self) -> str:
        """The place in one line: `guide.md:3-12`, or `report.pdf page 4:1-20`."""
        page = "" if self.page is None else f" page {self.page}"
        lines = f":{self.first_line}-{self.last_line}" if self.first_line else ""
        return f"{self.path}{page}{lines}"


def numbered_sources(hits: Sequence[Hit], *, max_chars: int = DEFAULT_MAX_CHARS) -> str:
    """Return hits as numbered sources for a prompt; `cited_hits` finds the ones that an answer cites.

    The best hits come first; text beyond `max_chars` is cut, with a note.
    """
    return _rendered([(f"[{number}] {hit.citation}", hit) for number, hit in enumerate(hits, 1)], max_chars)


def cited_sources(hits: Sequence[Hit], *, max_chars: int = DEFAULT_MAX_CHARS) -> str:
    """Return hits as sources that are cited by their place, so that several searches of one run can be cited."""
    return _rendered([(f"[{hit.citation}]", hit) for hit in hits], max_chars)


def cited_hits(answer: str, hits: Sequence[Hit]) -> tuple[list[Hit], list[str]]:
    """Return the hits that an answer cites, in the order of the first citation, and citations of no source.

    A citation is a number of `numbered_sources` in brackets, like `[2]`, or a place, like `[guide.md:3-12]`. A
    number that no hit has is an invented source; other text in brackets is ignored.
    """
    by_label = {hit.citation: hit for hit in hits} | {str(number): hit for number, hit in enumerate(hits, 1)}
    found, unknown = dict[str, Hit](), dict[str, None]()
    for label in _labels(answer):
        if (hit := by_label.get(label)) is not None:
            found.setdefault(hit.citation, hit)
        elif label.isdecimal() or re.fullmatch(r"\S.*:\d+-\d+", label):
            unknown[label] = None
    return list(found.values()), list(unknown)


def _labels(answer: str) -> Iterable[str]:
    """Yield the texts in brackets; `[1, 3]` is two."""
    for match in _LABEL.finditer(answer):
        inner = match[1].strip()
        if re.fullmatch(r"\d{1,4}(\s*[,;]\s*\d{1,4})+", inner):
            yield from re.split(r"\s*[,;]\s*", inner)
        else:
            yield inner


def _rendered(labelled: Iterable[tuple[str, Hit]], max_chars: int) -> str:
    blocks, left = list[str](), max_chars
    for label, hit in labelled:
        head = " ".join(part for part in (label, hit.heading, f"({hit.note})" if hit.note else "") if part)
        text = hit.text if len(hit.text) <= left else f"{hit.text[:left]} ... (cut)"
        left -= len(text)
        blocks.append("\n".join([head, *(INDENT + line for line in text.splitlines())]))
        if left <= 0:
            break
    return "\n\n".join(blocks)
