"""Characters that a model reads and a person does not see.

A tool description can carry instructions in zero-width characters, bidirectional overrides or Unicode tags
(U+E0000 to U+E007F spell ASCII invisibly); a reviewer sees a harmless sentence. They are removed from what a
server says, and the removal is reported. Source of the set: Unicode's Default_Ignorable_Code_Point, the bidi
controls of UAX #9, C0 and C1 controls except tab and line ends, and lone surrogates.
"""

from __future__ import annotations

import re

_HIDDEN = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # ignorable: soft hyphen, fillers
    "\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # zero-width, bidi, annotations
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # surrogates, tags
)
_JOINERS = "\u200c\u200d"
"""Needed to spell Persian, Indic scripts and emoji; hidden only where plain prose is expected."""

_IN_PROSE = re.compile(f"[{_HIDDEN}{_JOINERS}]")
_IN_DATA = re.compile(f"[{_HIDDEN}]")


def strip_prose(text: str) -> tuple[str, int]:
    """Return `text` without hidden characters, joiners included, and how many there were."""
    return _IN_PROSE.subn("", text)


def strip_data(text: str) -> tuple[str, int]:
    """Return `text` without hidden characters, but with the joiners that scripts and emoji need."""
    return _IN_DATA.subn("", text)


def has_hidden(text: str) -> bool:
    """Whether a name or value, which cannot be changed, holds hidden characters."""
    return _IN_DATA.search(text) is not None
