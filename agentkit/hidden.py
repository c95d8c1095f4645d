"""Characters that a model reads and a person does not see are taken out of what a server says, and reported.

A tool description can carry instructions in zero-width characters, bidirectional overrides, Unicode tags (U+E0000
to U+E007F spell ASCII invisibly) or runs of variation selectors and joiners; a reviewer sees a harmless sentence.
What is hidden is decided in one place for client and servers, `mcp_servers.hidden`.
"""

from __future__ import annotations

import re

from mcp_servers.hidden import visible

_JOINERS = re.compile("[\u200c\u200d]")
"""Needed to spell Persian, Indic scripts and emoji; hidden only where plain prose is expected."""
_BLANK = re.compile("[\u00a0\u2000-\u200a\u2028\u2029\u202f\u205f\u2800\u3000\u3164\uffa0]")
"""Look like a space, or like nothing, in the fonts of most terminals."""


def strip_prose(text: str) -> tuple[str, int]:
    """Return `text` without hidden characters, joiners included, and how many there were."""
    kept = _JOINERS.sub("", visible(text))
    return kept, len(text) - len(kept)


def strip_data(text: str) -> tuple[str, int]:
    """Return `text` without hidden characters but those that scripts and emoji need, and how many there were."""
    kept = visible(text)
    return kept, len(text) - len(kept)


def has_hidden(text: str) -> bool:
    """Whether a name or value, which cannot be changed, holds hidden characters."""
    return visible(text) != text


def is_plain(text: str) -> bool:
    """Whether a person who is shown `text` on one line sees all of it; otherwise it is to be shown escaped."""
    return text.isprintable() and not has_hidden(text) and _BLANK.search(text) is None
