"""Characters that a model reads and a person does not see are taken out of what files, pages and commits say.

Instructions can be written in zero-width characters, bidirectional overrides, Unicode tags (U+E0000 to U+E007F
spell ASCII invisibly) or runs of variation selectors, and escape codes can rewrite what a terminal shows. The set:
Unicode's Default_Ignorable_Code_Point, the bidi controls of UAX #9, C0 and C1 controls except tab and line ends,
lone surrogates.
"""

from __future__ import annotations

import re

_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # ignorable: soft hyphen, fillers
    "\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # zero-width, bidi, annotations
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"  # surrogates, tags
)
_SELECTORS, _JOINERS = "\ufe00-\ufe0f", "\u200c\u200d"
_SIGNS = re.compile(f"[{_SELECTORS}{_JOINERS}]+")
_ONE_OF_EACH = re.compile(f"[{_SELECTORS}]?[{_JOINERS}]?")


def visible(text: str) -> str:
    """Return `text` without its hidden characters."""
    text = _HIDDEN.sub("", text)
    return text if text.isascii() else _SIGNS.sub(_needed, text)


def _needed(run: re.Match[str]) -> str:
    """Return what Persian, Indic scripts and emoji need: one selector and one joiner, beside no ASCII."""
    before, after = run.string[run.start() - 1 : run.start()], run.string[run.end() : run.end() + 1]
    if before.isascii():  # or there is none
        return ""
    needed = _ONE_OF_EACH.match(run[0])
    kept = needed[0] if needed else ""
    return kept.rstrip("\u200c\u200d") if after.isascii() else kept


def decoded(data: bytes) -> str:
    """Return bytes of a stranger's as text: UTF-8, what is not replaced by U+FFFD, without hidden characters."""
    return visible(data.decode("utf-8", "replace"))
