"""Removal of characters that a model reads and a person does not see, from files, pages and commits.

Instructions can be written in zero-width characters, bidirectional overrides, Unicode tags (U+E0000 to U+E007F
spell ASCII invisibly) or runs of variation selectors, and escape codes can rewrite the content of a terminal. The
set: Unicode's Default_Ignorable_Code_Point, the bidi controls of UAX #9, C0 and C1 controls except tab and line
ends, lone surrogates.
"""

from __future__ import annotations

import re

_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # ignorable: soft hyphen, fillers
    "\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # zero-width, bidi, annotations
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"  # surrogates, tags
)
_ASCII_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})
_BREAKS = re.compile("[\t\n\r\u2028\u2029]")
"""Characters that `visible` keeps although they move the cursor or end a line."""
_SELECTORS, _JOINERS = "\ufe00-\ufe0f", "\u200c\u200d"
_SIGNS = re.compile(f"[{_SELECTORS}{_JOINERS}]+")
_ONE_OF_EACH = re.compile(f"[{_SELECTORS}]?[{_JOINERS}]?")


def visible(text: str) -> str:
    """Return `text` without its hidden characters."""
    if text.isascii():  # translate() is about a hundred times as fast
        return text.encode("ascii").translate(None, _ASCII_CONTROLS).decode("ascii")
    text = _HIDDEN.sub("", text)
    return text if text.isascii() else _SIGNS.sub(_needed, text)


def on_one_line(text: str) -> str:
    """Return `text` as one line without loss: line ends and hidden characters become escapes."""
    is_plain = visible(text) == text  # its selectors and joiners are needed
    if is_plain and not _BREAKS.search(text):
        return text
    return "".join(
        char if not _BREAKS.match(char) and (is_plain or visible(char)) else escaped(char) for char in text
    )


def escaped(char: str) -> str:
    """Return a character as an ASCII escape of Python."""
    return char.encode("unicode_escape").decode("ascii")


def _needed(run: re.Match[str]) -> str:
    """Return the selector and joiner that Persian, Indic scripts and emoji need: one of each, not beside ASCII."""
    before, after = run.string[run.start() - 1 : run.start()], run.string[run.end() : run.end() + 1]
    if before.isascii():  # ASCII, or the start of the text
        return ""
    needed = _ONE_OF_EACH.match(run[0])
    kept = needed[0] if needed else ""
    return kept.rstrip("\u200c\u200d") if after.isascii() else kept


def decoded(data: bytes) -> str:
    """Decode untrusted bytes as UTF-8, with U+FFFD for invalid ones and without hidden characters."""
    return visible(data.decode("utf-8", "replace"))
