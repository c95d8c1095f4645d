"""Removal of hidden characters, which a model reads and a person does not see, from text of a server.

A tool description can carry instructions in zero-width characters, bidirectional overrides, Unicode tags (U+E0000
to U+E007F spell ASCII invisibly) or runs of variation selectors and joiners; a reviewer sees a harmless sentence.
`mcp_servers.hidden` defines the hidden characters for client and servers.
"""

from __future__ import annotations

import re

from mcp_servers.hidden import visible

_JOINERS = re.compile("[\u200c\u200d]")
"""Joiners, needed to spell Persian, Indic scripts and emoji; hidden only where plain prose is expected."""
_BLANK = re.compile("[\u00a0\u2000-\u200a\u2028\u2029\u202f\u205f\u2800\u3000\u3164\uffa0]")
"""Characters that look like a space, or like nothing, in the fonts of most terminals."""


def strip_prose(text: str) -> tuple[str, int]:
    """Return `text` without hidden characters and joiners, and the number of removed characters."""
    kept = _JOINERS.sub("", visible(text))
    return kept, len(text) - len(kept)


def strip_data(text: str) -> tuple[str, int]:
    """Return `text` without hidden characters that no script or emoji needs, and the number of removed ones."""
    kept = visible(text)
    return kept, len(text) - len(kept)


def has_hidden(text: str) -> bool:
    """Return whether a name or value, which must not be changed, contains hidden characters."""
    return visible(text) != text


def is_plain(text: str) -> bool:
    """Return whether all of `text` is visible when printed on one line; otherwise it must be shown escaped."""
    return text.isprintable() and not has_hidden(text) and _BLANK.search(text) is None
