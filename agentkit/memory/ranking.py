"""Order of memories: words and meaning are fused by rank, and recent memories come first among equals.

Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009) needs no calibration between the scores of a
full-text index and of vectors. Recency decays by half in `HALF_LIFE_S`, as in "Generative Agents" (Park et al.,
arXiv 2304.03442), but to a floor: an old fact about a person is usually still true.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)

RANK_OFFSET = 60
"""Constant k of reciprocal rank fusion, the value of the paper."""
HALF_LIFE_S = 90 * 86_400.0
"""Seconds after which recency has decayed to half."""
RECENCY_SHARE = 0.3
"""Part of a score that decays with age; the rest is relevance alone."""
MAX_QUERY_WORDS = 48
"""Maximum words of a query that are searched; half from its beginning and half from its end."""
MAX_QUERY_CHARS = 4_000
"""Maximum characters of a query that are read, half from its beginning and half from its end."""
MIN_WORD_CHARS = 3
"""Minimum characters of an ASCII word; shorter ones ("to", "is", "I") are in almost every text."""

_WORD = re.compile(r"\w+")


def query_words(query: str) -> list[str]:
    """Return the different words of a text that are worth a search, in the order of the text."""
    if len(query) > MAX_QUERY_CHARS:
        query = f"{query[: MAX_QUERY_CHARS // 2]} {query[-MAX_QUERY_CHARS // 2 :]}"
    words = (match[0].casefold() for match in _WORD.finditer(query))
    found = list(
        dict.fromkeys(
            word for word in words if not word.isascii() or len(word) >= MIN_WORD_CHARS or word.isdigit()
        )
    )
    half = MAX_QUERY_WORDS // 2
    return found if len(found) <= MAX_QUERY_WORDS else [*found[:half], *found[-half:]]


def fused(rankings: Iterable[Sequence[KeyT]]) -> dict[KeyT, float]:
    """Return the relevance of each key, at most 1: that of a key that is first in all rankings with entries."""
    lists = [ranking for ranking in rankings if ranking]
    scores: dict[KeyT, float] = {}
    for ranking in lists:
        for rank, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + (RANK_OFFSET + 1) / (RANK_OFFSET + rank) / len(lists)
    return scores


def with_recency(relevance: Mapping[KeyT, float], created: Mapping[KeyT, float], now: float) -> dict[KeyT, float]:
    """Return the scores, best first; `created` has the time of each key in seconds since 1970."""
    scores = {
        key: score * (1 - RECENCY_SHARE + RECENCY_SHARE * 0.5 ** (max(0.0, now - created[key]) / HALF_LIFE_S))
        for key, score in relevance.items()
    }
    return dict(sorted(scores.items(), key=lambda item: -item[1]))
