"""Gopher's quality rules: drop texts that are not prose (Rae et al. 2021, arXiv 2112.11446, appendix A.1.1).

The rules, their order and the reasons follow datatrove 0.10.1, which produced FineWeb; the first rule that matches
decides. Words are those of `modelstack.data.words`, which include punctuation marks. The share of words with a
letter is therefore lower than with words split at white space. Its rule drops more pages with many marks than any
other rule.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from modelstack.data.documents import Step
from modelstack.data.quality.characters import PUNCTUATION
from modelstack.data.text_view import TextView
from modelstack.data.words import TextCache

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Stop words. Rae et al. 2021, A.1.1."""


class GopherQuality(BaseModel, frozen=True, extra="forbid"):
    """Drops texts that are not prose; None disables a rule."""

    kind: Literal["gopher_quality"] = "gopher_quality"
    min_words: int | None = 50
    """Minimum words, without those of punctuation only. Rae et al. 2021, A.1.1."""
    max_words: int | None = 100_000
    """Maximum words, without those of punctuation only. Rae et al. 2021, A.1.1."""
    min_mean_word_length: float | None = 3
    """Minimum mean characters of a word, without words of punctuation only. Rae et al. 2021, A.1.1."""
    max_mean_word_length: float | None = 10
    """Maximum mean characters of a word, without words of punctuation only. Rae et al. 2021, A.1.1."""
    max_symbols_per_word: float | None = 0.1
    """Maximum ratio of "#" to words, and of ellipses to words. Rae et al. 2021, A.1.1."""
    max_bullet_lines: float | None = 0.9
    """Maximum share of lines that start with "•" or "-". Rae et al. 2021, A.1.1."""
    max_ellipsis_lines: float | None = 0.3
    """Maximum share of lines that end with "..." or "…". Rae et al. 2021, A.1.1."""
    min_alphabetic_words: float | None = 0.8
    """Minimum share of words with a letter. Rae et al. 2021, A.1.1."""
    min_stop_words: int | None = 2
    """Minimum number of different stop words, in lower case. Rae et al. 2021, A.1.1."""
    stop_words: tuple[str, ...] = STOP_WORDS
    """Words of which a text must contain a minimum number."""

    def build(self) -> Step:
        """Return the step."""
        return lambda document: gopher_quality_reason(document.view, self)


def gopher_quality_reason(view: TextView, rules: GopherQuality) -> str | None:
    """Return the reason to drop a text, or None to keep it. A text without words is always dropped."""
    n_words = len(view.words)
    if not n_words:
        return "gopher_short_doc"
    n_plain = n_characters = n_alphabetic = 0
    for word, count in view.word_counts.items():
        is_plain, is_alphabetic = _word_kinds[word]
        if is_plain:
            n_plain += count
            n_characters += count * len(word)
        if is_alphabetic:
            n_alphabetic += count
    reason = _size_reason(n_plain, n_characters, rules) or _marks_reason(view, n_words, rules)
    if reason is not None:
        return reason
    if _is_below(n_alphabetic / n_words, rules.min_alphabetic_words):
        return "gopher_below_alpha_threshold"
    if _is_below(sum(word in view.word_counts for word in set(rules.stop_words)), rules.min_stop_words):
        return "gopher_enough_stop_words"
    return None


def _size_reason(n_words: int, n_characters: int, rules: GopherQuality) -> str | None:
    if _is_below(n_words, rules.min_words):
        return "gopher_short_doc"
    if _is_above(n_words, rules.max_words):
        return "gopher_long_doc"
    mean_length = n_characters / n_words if n_words else 0
    if _is_below(mean_length, rules.min_mean_word_length):
        return "gopher_below_avg_threshold"
    if _is_above(mean_length, rules.max_mean_word_length):
        return "gopher_above_avg_threshold"
    return None


def _marks_reason(view: TextView, n_words: int, rules: GopherQuality) -> str | None:
    text, lines = view.text, view.lines
    if _is_above(text.count("#") / n_words, rules.max_symbols_per_word):
        return "gopher_too_many_hashes"
    if _is_above((text.count("...") + text.count("…")) / n_words, rules.max_symbols_per_word):
        return "gopher_too_many_ellipsis"
    n_bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
    if _is_above(n_bullets / len(lines), rules.max_bullet_lines):
        return "gopher_too_many_bullets"
    n_ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    if _is_above(n_ellipses / len(lines), rules.max_ellipsis_lines):
        return "gopher_too_many_end_ellipsis"
    return None


def _is_below(value: float, limit: float | None) -> bool:
    return limit is not None and value < limit


def _is_above(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit


def _kinds_of_word(word: str) -> tuple[bool, bool]:
    """Return whether a word contains more than punctuation, and whether it contains a letter."""
    return not PUNCTUATION.issuperset(word), any(map(str.isalpha, word))


_word_kinds = TextCache(_kinds_of_word)
