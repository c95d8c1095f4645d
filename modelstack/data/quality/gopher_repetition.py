"""Gopher's rules of repetition: texts that repeat themselves (Rae et al. 2021, arXiv 2112.11446, table A1).

As datatrove 0.10.1 reads them, which made FineWeb with them, with its order and its reasons: the first rule
that hits decides. Most texts are far from every threshold for runs of words; two bounds (`duplicates`) tell
that from the counts of words and from one pass over runs of five, so the nine passes are rare.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel

from modelstack.data.documents import Step
from modelstack.data.quality.duplicates import (
    RepeatedRuns,
    bound_of_top_run,
    characters_of_top_run,
    count_again,
)
from modelstack.data.text_view import TextView

_NEWLINES = re.compile(r"\n+")


TOP_RUNS = ((2, 0.2), (3, 0.18), (4, 0.16))
DUPLICATE_RUNS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
"""Words of a run, and the most that it may make up: Rae et al. 2021, table A1."""


class GopherRepetition(BaseModel, frozen=True, extra="forbid"):
    """Drops texts that repeat themselves; None, or no run, turns a rule off."""

    kind: Literal["gopher_repetition"] = "gopher_repetition"
    max_duplicate_paragraphs: float | None = 0.3
    """Share of paragraphs that were there before. Rae et al. 2021, table A1."""
    max_duplicate_paragraph_characters: float | None = 0.2
    """Rae et al. 2021, table A1."""
    max_duplicate_lines: float | None = 0.3
    """Rae et al. 2021, table A1."""
    max_duplicate_line_characters: float | None = 0.2
    """Rae et al. 2021, table A1."""
    max_top_runs: tuple[tuple[int, float], ...] = TOP_RUNS
    """Share of characters in the most frequent run of so many words. Rae et al. 2021, table A1."""
    max_duplicate_runs: tuple[tuple[int, float], ...] = DUPLICATE_RUNS
    """Share of characters in runs of so many words that were there before. Rae et al. 2021, table A1."""

    def build(self) -> Step:
        """Return the step."""
        return lambda document: gopher_repetition_reason(document.view, self)


def gopher_repetition_reason(view: TextView, rules: GopherRepetition) -> str | None:
    """Return why a text is dropped, None if it is kept."""
    n_characters = len(view.text)
    if not n_characters:
        return "empty"
    parts = view.paragraphs
    n_again, n_characters_again = count_again(parts)
    if _is_over(n_again / len(parts), rules.max_duplicate_paragraphs):
        return "dup_para_frac"
    if _is_over(n_characters_again / n_characters, rules.max_duplicate_paragraph_characters):
        return "dup_para_char_frac"
    parts = _NEWLINES.split(view.text)
    n_again, n_characters_again = count_again(parts)
    if _is_over(n_again / len(parts), rules.max_duplicate_lines):
        return "dup_line_frac"
    if _is_over(n_characters_again / n_characters, rules.max_duplicate_line_characters):
        return "dup_line_char_frac"
    bound = bound_of_top_run(view.word_counts)
    for n, share in rules.max_top_runs:
        if n * bound / n_characters > share and characters_of_top_run(view.words, n) / n_characters > share:
            return f"top_{n}_gram"
    if not rules.max_duplicate_runs:
        return None
    runs = RepeatedRuns(view.words, min(n for n, _ in rules.max_duplicate_runs))
    bound = runs.bound()
    for n, share in rules.max_duplicate_runs:
        if bound / n_characters > share and runs.characters_again(n) / n_characters > share:
            return f"duplicated_{n}_n_grams"
    return None


def _is_over(share: float, limit: float | None) -> bool:
    return limit is not None and share > limit
