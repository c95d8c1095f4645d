"""Relatedness of two texts by the stems of their content words: crude and conservative.

A tool that shares no stem with a request will not fulfil it; the converse does not hold. Word overlap alone
selects the right tool in most cases of common benchmarks, so it is a fair criterion for "too similar".
"""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_STOP_TEXT = """
    a about after all also am an and any are as at be because been before between but by call can could
    create data did do does find for from get give go had has have help hey hi how i id if in info
    information into is it its just last let like list look make many me more most much my name need new
    next no not now number of off on one only or other our out over please put set show some something
    tell than thank thanks that the their them then there these they this those to today tomorrow two up
    update us use user using value want was we what when where which who will with would you your
"""
_STOP = frozenset(_STOP_TEXT.split())
_SUFFIXES = ("ations", "ation", "ments", "ment", "ings", "ing", "ies", "ers", "er", "ed", "es", "s", "e", "y")
_MIN_STEM = 3


def share_stem(first: str, second: str) -> bool:
    """Whether two texts have the stem of a content word in common."""
    return not stems(first).isdisjoint(stems(second))


def overlap(first: str, second: str) -> float:
    """Return the number of common stems divided by the number of all stems of two texts."""
    a, b = stems(first), stems(second)
    return len(a & b) / max(1, len(a | b))


@lru_cache(maxsize=65536)
def stems(text: str) -> frozenset[str]:
    """Return the stems of the content words of a text or identifier."""
    words = (word.lower() for word in _WORD.findall(text))
    return frozenset(_stem(word) for word in words if word not in _STOP and len(word) >= _MIN_STEM)


def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _MIN_STEM:
            return word[: -len(suffix)]
    return word
