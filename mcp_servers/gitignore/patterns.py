"""Parser of `.gitignore` lines, after gitignore(5) and, where the page is silent, git's own parser.

Git compares names as bytes (`?` is one byte), and so does this module. The bytes that a step accepts are a set: an
integer in which bit b stands for byte b. A pattern that cannot match anything (`a[`, a backslash at the end) is
dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

SLASH = ord("/")
ANY_IN_NAME = (1 << 256) - 1 ^ 1 << SLASH

_STARS = re.compile(rb"\*+")
_MEMBER = re.compile(rb"(?P<low>\\.|[^\\])(?:-(?P<high>\\.|[^\\\]]))?", re.DOTALL)


class Gap(Enum):
    """Bytes allowed between two steps."""

    NOTHING = "nothing"
    NAME = "any bytes but slashes: a star"
    PATH = "any bytes: two stars"
    FOLDERS = "whole folders, or none and not the slash behind them either: two stars and a slash"


@dataclass(frozen=True)
class Pattern:
    """Parsed line of an ignore file; paths are relative to the folder of the file."""

    steps: tuple[int, ...]
    """Sets of bytes, one for each byte that the pattern requires."""
    gaps: tuple[Gap, ...]
    """Gaps before each step, and after the last."""
    floats: bool
    """True if it may start in any folder below its file's, not only in that one."""
    brings_back: bool
    """True if matching entries are re-included (`!`)."""
    only_folders: bool


def parse_line(line: bytes) -> Pattern | None:
    """Return the pattern of a line, or None: the line is empty, a comment, or cannot match anything."""
    if not line or line.startswith(b"#"):
        return None
    text = _without_trailing_spaces(line.removesuffix(b"\r"))
    brings_back = text.startswith(b"!")
    text = text.removeprefix(b"!")
    only_folders = text.endswith(b"/")
    text = text.removesuffix(b"/")
    is_path = b"/" in text
    text = text.removeprefix(b"/")
    parser = _Parser(text, is_path)
    if not text or not parser.parse():
        return None
    return Pattern(tuple(parser.steps), tuple(parser.gaps), parser.floats, brings_back, only_folders)


def _without_trailing_spaces(text: bytes) -> bytes:
    kept = text.rstrip(b" ")
    n_backslashes = len(kept) - len(kept.rstrip(b"\\"))
    return text[: len(kept) + 1] if n_backslashes % 2 else kept  # the first space is escaped


@dataclass
class _Parser:
    text: bytes
    is_path: bool
    """True if stars stop at slashes and two stars have their own meaning."""
    steps: list[int] = field(default_factory=list[int])
    gaps: list[Gap] = field(default_factory=lambda: [Gap.NOTHING])
    """Gaps as in `Pattern`; the last one precedes the next step."""
    floats: bool = False
    _at: int = 0

    def parse(self) -> bool:
        """Return whether the text is a pattern that can match."""
        self.floats = not self.is_path
        while self._at < len(self.text):
            stars = _STARS.match(self.text, self._at)
            if stars:
                self._read_stars(stars.end())
            elif not self._read_step():
                return False
        return True

    def _read_stars(self, end: int) -> None:
        begins_name = self._at == 0 or self.text[self._at - 1] == SLASH
        ends_name = end == len(self.text) or self.text.startswith((b"/", b"\\/"), end)
        if not (self.is_path and end - self._at > 1 and begins_name and ends_name):
            self.gaps[-1] = Gap.NAME
        elif not self.text.startswith(b"/", end):
            self.gaps[-1] = Gap.PATH
        elif not self.steps:
            self.floats = True
            end += 1
        elif self.gaps[-2] is Gap.FOLDERS:  # two stars, slash, two stars, slash: the second pair adds nothing
            end += 1
        else:
            self.gaps[-1] = Gap.FOLDERS
        self._at = end

    def _read_step(self) -> bool:
        text, at = self.text, self._at
        self._at += 1
        if text[at] == ord("?"):
            step = ANY_IN_NAME
        elif text[at] == ord("["):
            step, self._at = _set_at(text, at + 1)
        elif text[at] == ord("\\"):
            self._at += 1
            step = 1 << text[at + 1] if at + 1 < len(text) else 0
        else:
            step = 1 << text[at]
        self.steps.append(step)
        self.gaps.append(Gap.NOTHING)
        return bool(step)


def _set_at(text: bytes, at: int) -> tuple[int, int]:
    """Return the set that opens before `at`, and the position after it; the set is empty if not closed."""
    is_negated = text[at : at + 1] in (b"!", b"^")
    at += is_negated
    members, first = 0, at
    while at == first or not text.startswith(b"]", at):
        more, at = _named_set_at(text, at) or _member_at(text, at)
        if not more:
            return 0, at
        members |= more
    return (ANY_IN_NAME & ~members if is_negated else ANY_IN_NAME & members), at + 1


def _named_set_at(text: bytes, at: int) -> tuple[int, int] | None:
    """Return the set of a name like `[:alpha:]` and the position after it, or None."""
    begin = at + 2
    end = text.find(b"]", begin)
    if not text.startswith(b"[:", at) or end <= begin or text[end - 1] != ord(":"):
        return None
    return _NAMED.get(text[begin : end - 1], 0), end + 1


def _member_at(text: bytes, at: int) -> tuple[int, int]:
    """Return the set of one byte or range and the position after it; the set is empty if there is none."""
    member = _MEMBER.match(text, at)
    if member is None:
        return 0, at
    low = member["low"][-1]
    high = member["high"][-1] if member["high"] else low
    return 1 << low | _range(low, high), member.end()


def _range(low: int, high: int) -> int:
    return (1 << high + 1) - (1 << low) if low <= high else 0


def _set_of(members: bytes) -> int:
    return sum(1 << member for member in members)


_DIGIT = _set_of(b"0123456789")
_LOWER, _UPPER = _range(ord("a"), ord("z")), _range(ord("A"), ord("Z"))
_ALNUM = _DIGIT | _LOWER | _UPPER
_GRAPH = _range(ord("!"), ord("~"))
_NAMED = {
    b"alnum": _ALNUM,
    b"alpha": _LOWER | _UPPER,
    b"blank": _set_of(b" \t"),
    b"cntrl": _range(0, 31) | 1 << 127,
    b"digit": _DIGIT,
    b"graph": _GRAPH,
    b"lower": _LOWER,
    b"print": _GRAPH | 1 << ord(" "),
    b"punct": _GRAPH & ~_ALNUM,
    b"space": _set_of(b" \t\n\r"),
    b"upper": _UPPER,
    b"xdigit": _DIGIT | _set_of(b"abcdefABCDEF"),
}
