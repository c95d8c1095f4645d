"""Splits a document into passages: blocks of lines that are found, ranked and shown as a unit.

A Markdown heading begins a passage. Otherwise a passage ends at a blank line, preferably before a line without
indentation (in code, the next function), and at the latest after 40 lines or 4,000 characters. The heading of a
code passage lists the names that it defines: a name's definition is more relevant than its uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mcp_servers.search.policy import Form

MAX_HEADING_CHARS = 200
MAX_HEADING_LEVEL = 6
_FENCES = ("```", "~~~")
# A line that defines a name in one of the languages of `CODE_KINDS`. The text required after the name excludes
# prose in comments ("class of numbers").
_DEFINITION = re.compile(
    r"\s*(?:(?:abstract|async|const|data|declare|default|enum|export|extern|final|inline|internal|local|open|override|"
    r"partial|private|protected|pub(?:\(\w+\))?|public|sealed|static|unsafe|virtual)\s+){0,4}"
    r"(?:class|contract|def|enum|fn|fun|func|function|impl|interface|message|module|namespace|object|record|service|"
    r"struct|trait|type|union|CREATE\s+(?:TABLE|VIEW|INDEX))\s+(?:\([^)]*\)\s*)?(\w+)"
    r"(?=\s*(?:[^\w\s]|$)|\s+(?:extends|for|implements|interface|struct|where)\b)"
)


@dataclass(frozen=True)
class Passage:
    """Lines of a file, or of one page of it."""

    page: int
    """Page of a PDF, from 1; otherwise 0."""
    first_line: int
    """First line, from 1, counted within the page of a PDF; 0 if only the file's name is indexed."""
    last_line: int
    heading: str
    """Headings above, outermost first; for code, the names that it defines."""
    text: str


NAME_ONLY = Passage(page=0, first_line=0, last_line=0, heading="", text="")


def passages_of(
    lines: Sequence[str], form: Form, *, page: int = 0, max_lines: int, max_chars: int
) -> Iterator[Passage]:
    """Yield the passages of a text in order; blank ones are skipped."""
    has_headings = form in ("markdown", "html")
    for start, end, heading in _sections(lines) if has_headings else [(0, len(lines), "")]:
        while start < end:
            stop = _end_of_block(lines, start, end, max_lines, max_chars)
            if form == "code":
                heading = ", ".join(_definitions(lines[start:stop]))[:MAX_HEADING_CHARS]
            for text in _pieces("\n".join(lines[start:stop]), max_chars):
                if text and not text.isspace():
                    yield Passage(page, start + 1, stop, heading, text)
            start = stop


def _end_of_block(lines: Sequence[str], start: int, end: int, max_lines: int, max_chars: int) -> int:
    """Return the index after the block's last line; a block has at least one line."""
    stop, n_chars = start, 0
    after_blank = before_outer_line = 0
    while stop < end and stop - start < max_lines:
        n_chars += len(lines[stop]) + 1
        if n_chars > max_chars and stop > start:
            break
        stop += 1
        if stop < end and not lines[stop - 1].strip():
            after_blank = stop
            if lines[stop][:1].strip():
                before_outer_line = stop
    if stop == end:
        return stop
    enough = start + max(1, max_lines // 2)
    return next((border for border in (before_outer_line, after_blank) if border >= enough), stop)


def _pieces(text: str, max_chars: int) -> Iterator[str]:
    """Cut the text of one very long line, preferably between words."""
    start = 0
    while len(text) - start > max_chars:
        stop = text.rfind(" ", start + max_chars // 2, start + max_chars) + 1 or start + max_chars
        yield text[start:stop]
        start = stop
    yield text[start:]


def _sections(lines: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, headings) of the parts between headings; a heading without text joins the next part."""
    trail: list[tuple[int, str]] = []
    start, has_text, fence = 0, False, ""
    joined = ""
    for number, line in enumerate(lines):
        fence = _fence_after(line, fence)
        heading = None if fence else _heading(line)
        if heading is None:
            has_text = has_text or bool(line.strip())
            continue
        if has_text:
            yield start, number, joined
            start, has_text = number, False
        trail = [outer for outer in trail if outer[0] < heading[0]] + [heading]
        joined = " > ".join(title for _, title in trail)[:MAX_HEADING_CHARS]
    yield start, len(lines), joined


def _definitions(lines: Sequence[str]) -> Iterator[str]:
    return (match[1] for line in lines if (match := _DEFINITION.match(line[:MAX_HEADING_CHARS])))


def _heading(line: str) -> tuple[int, str] | None:
    """Return level and title of an ATX heading (https://spec.commonmark.org/0.31.2/#atx-headings)."""
    text = line.lstrip(" ")
    level = len(text) - len(text.lstrip("#"))
    if not 1 <= level <= MAX_HEADING_LEVEL or len(line) - len(text) > 3 or text[level : level + 1].strip():
        return None
    title = text[level:].strip()
    bare = title.rstrip("#")
    return level, (bare.rstrip() if not bare or bare[-1].isspace() else title)


def _fence_after(line: str, fence: str) -> str:
    """Return the fence of the code block that is open after this line, or an empty string."""
    text = line.strip()
    if fence:
        return "" if text.startswith(fence) and not text.strip(fence[0]) else fence
    if not text.startswith(_FENCES):
        return ""
    return text[0] * (len(text) - len(text.lstrip(text[0])))
