"""Comments of a source file, found in one pass that recognises strings.

A scanner with a few rules per language, not a parser: a regular expression literal may hide a quotation mark until
the end of its line. A test states the difference from `tokenize` and `ast`, which bigcode uses, on Python's
standard library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from modelstack.data.code.languages import Syntax

_MAX_INDENT = 200


def comment_share(text: str, syntax: Syntax) -> float:
    """Return the share of the characters of a text that are in comments; 0 for an empty text."""
    return sum(end - start for start, end in comment_spans(text, syntax)) / len(text) if text else 0.0


def comment_spans(text: str, syntax: Syntax) -> Iterator[tuple[int, int]]:
    """Yield the spans of comments, delimiters included, in time linear in the text.

    A block in triple quotation marks is a comment (a Python docstring) if only blanks precede it on its line.
    """
    openers = _openers(syntax)
    if openers is None:
        return
    ends = dict(syntax.block)
    at = 0
    while opener := openers.search(text, at):
        sign = opener[0]
        if sign in ends:
            end = text.find(ends[sign], opener.end())
            at = len(text) if end < 0 else end + len(ends[sign])
            if sign[0] not in syntax.strings or _begins_line(text, opener.start()):
                yield opener.start(), at
        elif sign in syntax.line:
            end = text.find("\n", opener.end())
            at = len(text) if end < 0 else end
            yield opener.start(), at
        else:
            closed = _string(sign).match(text, opener.end())
            at = closed.end() if closed else opener.end()


def _begins_line(text: str, start: int) -> bool:
    line_start = text.rfind("\n", max(0, start - _MAX_INDENT), start) + 1
    return not text[line_start:start].strip(" \t\n\frRuU") and (line_start > 0 or start <= _MAX_INDENT)


@cache
def _openers(syntax: Syntax) -> re.Pattern[str] | None:
    signs = [begin for begin, _ in syntax.block] + [*syntax.line, *syntax.strings]
    if not syntax.has_comments:
        return None
    # Longest first: `--[[` before `--`, three quotation marks before one.
    return re.compile("|".join(re.escape(sign) for sign in sorted(signs, key=len, reverse=True)))


@cache
def _string(quote: str) -> re.Pattern[str]:
    """Return the pattern of the rest of a string; an unclosed string ends with its line, except in backticks."""
    line_end = "" if quote == "`" else r"\n"
    return re.compile(rf"(?:[^{quote}\\{line_end}]|\\[\s\S])*+{quote}?")
