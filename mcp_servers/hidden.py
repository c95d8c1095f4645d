"""Characters that a model reads and a person does not see are taken out of what files, pages and commits say.

Instructions can be written in zero-width characters, bidirectional overrides or Unicode tags (U+E0000 to U+E007F
spell ASCII invisibly), and escape codes can rewrite what a terminal shows. Source of the set: Unicode's
Default_Ignorable_Code_Point, the bidi controls of UAX #9, C0 and C1 controls except tab and line ends, lone
surrogates. U+200C and U+200D stay: Persian, Indic scripts and emoji are spelt with them.
"""

from __future__ import annotations

import re

HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # ignorable: soft hyphen, fillers
    "\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # zero-width, bidi, annotations
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"  # surrogates, tags
)


def visible(text: str) -> str:
    """Return `text` without its hidden characters."""
    return HIDDEN.sub("", text)


def decoded(data: bytes) -> str:
    """Return bytes of a stranger's as text: UTF-8, what is not replaced by U+FFFD, without hidden characters."""
    return visible(data.decode("utf-8", "replace"))
