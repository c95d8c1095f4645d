"""Failures that the calling model can act on, and suggestions of similar names.

The rule of the MCP specification's tool errors: if a smarter model could have avoided the failure, the model gets
the text (`is_error`); everything else is a protocol error that only the client sees. A `ToolFailure` therefore
says what was wrong and what to do instead, and never holds a path outside the served resource.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from heapq import nlargest
from itertools import islice

# Names compared for a suggestion: an upper bound of the similarity takes about 10 us a name, 20 ms together.
MAX_COMPARED_NAMES = 2_000
MAX_COMPARED_CHARS = 200
# Product of name lengths summed over the names measured exactly: 0.1 s at worst; ordinary names stay below it.
# Measuring 2,000 long names of two letters took 5 s.
MAX_COMPARED_PAIRS = 500_000
MAX_SUGGESTIONS = 3
MAX_LISTED_CHARS = 400
MIN_SIMILARITY = 0.6  # difflib's own default


class ToolFailure(Exception):
    """A failure whose text tells the model what to do differently."""


class StartError(Exception):
    """Invalid start options; the message is for the person who starts the server."""


def nearest_names(
    wanted: str, known: Iterable[str], *, n: int = MAX_SUGGESTIONS, cutoff: float = MIN_SIMILARITY
) -> list[str]:
    """Return up to `n` names of `known` similar to `wanted`, best first, ignoring case."""
    if len(wanted) > MAX_COMPARED_CHARS:  # difflib is quadratic in the length of a name
        return []
    compared = (name for name in islice(known, MAX_COMPARED_NAMES) if len(name) <= MAX_COMPARED_CHARS)
    by_folded = {name.casefold(): name for name in compared}
    return [by_folded[folded] for folded in close_matches(wanted.casefold(), by_folded, n=n, cutoff=cutoff)]


def close_matches(wanted: str, texts: Iterable[str], *, n: int, cutoff: float = MIN_SIMILARITY) -> list[str]:
    """Return up to `n` texts similar to `wanted`, best first: `difflib.get_close_matches` in bounded time.

    Texts are measured in the order of an upper bound of their similarity until `MAX_COMPARED_PAIRS` are used up.
    """
    matcher = SequenceMatcher()
    matcher.set_seq2(wanted)
    bounds: list[tuple[float, str]] = []
    for text in texts:
        matcher.set_seq1(text)
        if matcher.real_quick_ratio() >= cutoff and (bound := matcher.quick_ratio()) >= cutoff:
            bounds.append((bound, text))
    left = MAX_COMPARED_PAIRS
    close: list[tuple[float, str]] = []
    for _, text in sorted(bounds, reverse=True):
        left -= len(text) * len(wanted)
        if left < 0:
            break
        matcher.set_seq1(text)
        if (ratio := matcher.ratio()) >= cutoff:
            close.append((ratio, text))
    return [text for _, text in nlargest(n, close)]


def suggestion(wanted: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'a' or 'b'?"`, or an empty string if no name is similar."""
    return did_you_mean(nearest_names(wanted, known))


def did_you_mean(names: Sequence[str]) -> str:
    """Return the question of `suggestion` for these names; empty without names."""
    return f" Did you mean {' or '.join(repr(name) for name in names)}?" if names else ""


def listed(opening: str, names: Iterable[str], *, most: int) -> str:
    """Return a sentence that lists `names`; empty if there are none, more than `most`, or too long ones."""
    known = list(islice(names, most + 1))
    text = ", ".join(known)
    return f"{opening}{text}." if known and len(known) <= most and len(text) <= MAX_LISTED_CHARS else ""
