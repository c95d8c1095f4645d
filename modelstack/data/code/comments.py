"""The characters of a file that are comments, in one pass that knows strings.

A scanner of a few rules a language, no parser: an expression in slashes may hide a quotation mark until its
line ends. On Python's standard library it differs from `tokenize` and `ast`, which bigcode uses, by what a test
beside says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from modelstack.data.code.languages import Syntax

_MAX_INDENT = 200


def comment_share(text: str, syntax: Syntax) -> float:
    """Return the share of a text's characters that stand in comments; 0 for an empty text."""
    return sum(end - start for start, end in comment_spans(text, syntax)) / len(text) if text else 0.0


def comment_spans(text: str, syntax: Syntax) -> Iterator[tuple[int, int]]:
    """Find the comments of a text, signs included, in time linear in it.

    A block in triple quotation marks is one (Python's docstring) where nothing but blanks stands before it in
    its line.
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
    # The longest first: `--[[` before `--`, three quotation marks before one.
    return re.compile("|".join(re.escape(sign) for sign in sorted(signs, key=len, reverse=True)))


@cache
def _string(quote: str) -> re.Pattern[str]:
    """Return the pattern of the rest of a string; one that is not closed ends with its line, but in backticks."""
    line_end = "" if quote == "`" else r"\n"
    return re.compile(rf"(?:[^{quote}\\{line_end}]|\\[\s\S])*+{quote}?")
