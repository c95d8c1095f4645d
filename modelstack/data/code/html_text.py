"""Length of the text that a browser shows for an HTML file, measured in one pass without a parser."""

from __future__ import annotations

import re

_TAG = re.compile(r"<[A-Za-z/!?]")
_HIDDEN = re.compile(r"<(?P<name>script|style|template|noscript)\b", re.IGNORECASE)
_BLANKS = re.compile(r"\s+")


def visible_text_length(html: str) -> int:
    """Return the number of characters outside tags, scripts, styles and comments; a run of blanks counts once."""
    lower = html.lower()
    if len(lower) != len(html):  # some letters become two in lower case, which would shift offsets
        lower = html
    pieces: list[str] = []
    at = 0
    for tag in _TAG.finditer(html):
        if tag.start() < at:
            continue
        pieces.append(html[at : tag.start()])
        at = _after_tag(html, lower, tag.start())
    pieces.append(html[at:])
    return len(_BLANKS.sub(" ", " ".join(pieces)).strip())


def _after_tag(html: str, lower: str, start: int) -> int:
    """Return the end of the construct that starts with "<": a comment, a hidden element or a tag."""
    if html.startswith("<!--", start):
        return _after(html, "-->", start)
    hidden = _HIDDEN.match(html, start)
    if hidden:
        end = _after(lower, f"</{hidden['name'].lower()}", start)
        return _after(html, ">", end - 1)
    return _after(html, ">", start)


def _after(text: str, sign: str, start: int) -> int:
    end = text.find(sign, max(0, start))
    return len(text) if end < 0 else end + len(sign)
