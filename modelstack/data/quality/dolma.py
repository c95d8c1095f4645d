"""Dolma's implementation of Gopher's and C4's rules (Soldaini et al. 2024, arXiv 2402.00159, section 5.2).

Dolma's web part kept texts that pass all of Gopher's rules, and removed lines without a mark at their end as C4
does. Its code (allenai/dolma, taggers `gopher_v1` and `c4_v1`) differs from datatrove's:

- Words are split at white space.
- The median word length is bounded, not the mean.
- Words with "#" or "…" count, not the marks.
- Every occurrence of a stop word counts.
- Bullets are "*" and "-".
- A repeated line or word run counts each time, the first time too.
- Shares are over characters other than white space.

Empty lines count as lines, so a text with a blank line between any two lines consists mostly of repeated lines and
is dropped. Dolma's pages had none: CCNet's extraction puts each paragraph on one line.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Literal

from pydantic import BaseModel

from modelstack.data.documents import Document, Step
from modelstack.data.quality.gopher_quality import STOP_WORDS
from modelstack.data.quality.gopher_repetition import DUPLICATE_RUNS, TOP_RUNS
from modelstack.data.text_view import TextView

_LINE_ENDS = (".", "?", "!", '"')


class DolmaRules(BaseModel, frozen=True, extra="forbid"):
    """Drops texts by Gopher's rules with Dolma's counting, then removes lines without a mark at their end."""

    kind: Literal["dolma"] = "dolma"
    min_words: int = 50
    """Minimum words. Rae et al. 2021, A.1.1; Soldaini et al. 2024, section 5.2."""
    max_words: int = 100_000
    """Maximum words. Rae et al. 2021, A.1.1; Soldaini et al. 2024, section 5.2."""
    min_median_word_length: float = 3
    """Minimum median length of words. Rae et al. 2021, A.1.1 (mean); Soldaini et al. 2024, section 5.2."""
    max_median_word_length: float = 10
    """Maximum median length of words. Rae et al. 2021, A.1.1 (mean); Soldaini et al. 2024, section 5.2."""
    max_symbol_words: float = 0.1
    """Maximum share of words with "#" or "…". Rae et al. 2021, A.1.1; Soldaini et al. 2024, section 5.2."""
    min_alphabetic_words: float = 0.8
    """Minimum share of words with a letter. Rae et al. 2021, A.1.1; Soldaini et al. 2024, section 5.2."""
    min_stop_words: int = 2
    """Minimum occurrences of stop words. Rae et al. 2021, A.1.1; Soldaini et al. 2024, section 5.2."""
    max_bullet_lines: float = 0.9
    """Maximum share of lines with a bullet. Rae et al. 2021, A.1.1; Soldaini et al. 2024, section 5.2."""
    max_ellipsis_lines: float = 0.3
    """Maximum share of lines that end with "…". Rae et al. 2021, A.1.1; Soldaini et al. 2024, section 5.2."""
    max_duplicate_lines: float = 0.3
    """Maximum share of repeated lines. Rae et al. 2021, table A1; Soldaini et al. 2024, section 5.2."""
    max_duplicate_line_characters: float = 0.3
    """Maximum share of characters in repeated lines. allenai/dolma: 0.3; Rae et al. 2021, table A1: 0.2."""
    max_top_runs: tuple[tuple[int, float], ...] = TOP_RUNS
    """Maximum shares of characters in the most frequent run of n words: pairs (n, share).

    Rae et al. 2021, table A1; Soldaini et al. 2024, section 5.2.
    """
    max_duplicate_runs: tuple[tuple[int, float], ...] = DUPLICATE_RUNS
    """Maximum shares of characters in repeated runs of n words: pairs (n, share).

    Rae et al. 2021, table A1; Soldaini et al. 2024, section 5.2.
    """
    require_line_end: bool = True
    """Whether to remove lines without a mark at their end: "C4 NoPunc" of Soldaini et al. 2024, section 5.2."""

    def build(self) -> Step:
        """Return the step."""

        def step(document: Document) -> str | None:
            view = document.view
            reason = dolma_reason(view, self)
            if reason is not None or not self.require_line_end:
                return reason
            lines = document.text.split("\n")
            kept = [line for line in lines if line.lower().strip().endswith(_LINE_ENDS)]
            if not kept:
                return "dolma_no_ended_line"
            if len(kept) < len(lines):
                document.text = "\n".join(kept)
            return None

        return step


def dolma_reason(view: TextView, rules: DolmaRules) -> str | None:
    """Return the reason to drop a text, or None to keep it; reasons follow the taggers' attribute names."""
    return _words_reason(view.chunks, rules) or _lines_reason(view, rules) or _runs_reason(view.chunks, rules)


def _words_reason(words: list[str], rules: DolmaRules) -> str | None:
    n_words = len(words)
    if not n_words or not rules.min_words <= n_words <= rules.max_words:
        return "dolma_word_count"
    if not rules.min_median_word_length <= median(map(len, words)) <= rules.max_median_word_length:
        return "dolma_median_word_length"
    if sum("#" in word or "…" in word for word in words) / n_words > rules.max_symbol_words:
        return "dolma_symbol_to_word_ratio"
    if sum(any(map(str.isalpha, word)) for word in words) / n_words < rules.min_alphabetic_words:
        return "dolma_words_with_alpha_character"
    if sum(map(words.count, STOP_WORDS)) < rules.min_stop_words:
        return "dolma_required_word_count"
    return None


def _lines_reason(view: TextView, rules: DolmaRules) -> str | None:
    lines = view.text.split("\n")
    if sum(line.startswith(("*", "-")) for line in lines) / len(lines) > rules.max_bullet_lines:
        return "dolma_lines_starting_with_bullet_point"
    if sum(line.endswith("…") for line in lines) / len(lines) > rules.max_ellipsis_lines:
        return "dolma_lines_ending_with_ellipsis"
    repeated = [(line, count) for line, count in Counter(lines).items() if count > 1]
    if sum(count for _, count in repeated) / len(lines) > rules.max_duplicate_lines:
        return "dolma_duplicate_lines"
    n_characters = sum(map(len, view.chunks))
    if sum(len(line) * count for line, count in repeated) / n_characters > rules.max_duplicate_line_characters:
        return "dolma_characters_in_duplicate_lines"
    return None


def _runs_reason(words: list[str], rules: DolmaRules) -> str | None:
    n_characters = sum(map(len, words))
    for n, share in rules.max_top_runs:
        run, count = max(_runs(words, n).items(), key=lambda item: item[1], default=((), 0))
        if count * sum(map(len, run)) / n_characters > share:
            return f"dolma_most_common_{n}grams"
    for n, share in rules.max_duplicate_runs:
        repeated = total = 0
        for run, count in _runs(words, n).items():
            length = count * sum(map(len, run))
            total += length
            repeated += length if count > 1 else 0
        if total and repeated / total > share:
            return f"dolma_duplicate_{n}grams"
    return None


def _runs(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))
