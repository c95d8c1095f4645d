"""Failures that the calling model can act on, and the names it may have meant.

The rule of the MCP specification's tool errors: if a smarter model could have avoided the failure, it gets
the text back (`is_error`); everything else is a protocol error that only the client sees. A `ToolFailure`
therefore says what was wrong and what to do instead, and never holds a path outside the served resource.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

# Names compared for a suggestion: difflib costs about 10 us a name, so this bounds a suggestion to 20 ms.
MAX_COMPARED_NAMES = 2_000
MAX_COMPARED_CHARS = 200
MAX_SUGGESTIONS = 3
MIN_SIMILARITY = 0.6  # difflib's own default


class ToolFailure(Exception):
    """A failure whose text tells the model what to do differently."""


class StartError(Exception):
    """The launcher's mistake: the server cannot start with these options."""


def nearest_names(
    wanted: str, known: Iterable[str], *, n: int = MAX_SUGGESTIONS, cutoff: float = MIN_SIMILARITY
) -> list[str]:
    """Return up to `n` names of `known` that look like `wanted`, best first, ignoring case."""
    if len(wanted) > MAX_COMPARED_CHARS:  # difflib is quadratic in the length of a name
        return []
    compared = (name for name in islice(known, MAX_COMPARED_NAMES) if len(name) <= MAX_COMPARED_CHARS)
    by_folded = {name.casefold(): name for name in compared}
    close = difflib.get_close_matches(wanted.casefold(), by_folded, n=n, cutoff=cutoff)
    return [by_folded[folded] for folded in close]


def suggestion(wanted: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'a' or 'b'?"`, or an empty string when nothing is near."""
    names = nearest_names(wanted, known)
    return f" Did you mean {' or '.join(repr(name) for name in names)}?" if names else ""
