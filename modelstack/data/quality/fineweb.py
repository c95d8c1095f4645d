"""FineWeb's own rules: lists, menus and repeated lines (Penedo et al. 2024, arXiv 2406.17557, section 3.6).

The rules, their order and the reasons follow datatrove 0.10.1; the first rule that matches decides. Lines are
separated by newlines; blank lines are ignored.

Sources disagree on the share of characters in repeated lines. According to the paper, texts with 0.1 or more were
removed. The code that made FineWeb has 0.01, and FineWeb-2's authors report raising theirs from 0.01 to 0.1. The
default here is the code's; a run's configuration records the value used.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from modelstack.data.documents import Step
from modelstack.data.quality.characters import LINE_ENDS
from modelstack.data.quality.duplicates import count_again
from modelstack.data.text_view import TextView


class FineWebQuality(BaseModel, frozen=True, extra="forbid"):
    """Drops texts whose lines are not sentences; None disables a rule."""

    kind: Literal["fineweb_quality"] = "fineweb_quality"
    min_ended_lines: float | None = 0.12
    """Minimum share of lines with a sentence-ending mark. Penedo et al. 2024, section 3.6."""
    allow_no_ended_line: bool = False
    """Whether to keep texts in which no line ends with such a mark. datatrove: line_punct_exclude_zero."""
    max_short_lines: float | None = 0.67
    """Maximum share of lines of at most `short_line_length` characters. Penedo et al. 2024, section 3.6."""
    short_line_length: int = 30
    """Maximum characters of a short line.

    Penedo et al. 2024, section 3.6: shorter than 30; datatrove: at most 30.
    """
    max_duplicate_line_characters: float | None = 0.01
    """Maximum share of characters in repeated lines. datatrove: 0.01; Penedo et al. 2024, section 3.6: 0.1."""
    max_newlines_per_word: float | None = 0.3
    """Maximum newlines per word. datatrove: list_ratio 0.3; not in Penedo et al. 2024."""

    def build(self) -> Step:
        """Return the step."""
        return lambda document: fineweb_quality_reason(document.view, self)


def fineweb_quality_reason(view: TextView, rules: FineWebQuality) -> str | None:
    """Return the reason to drop a text, or None to keep it."""
    lines = view.filled_lines
    if not lines:
        return "empty"
    if rules.min_ended_lines is not None:
        n_ended = sum(line[-1] in LINE_ENDS for line in lines)
        if n_ended / len(lines) < rules.min_ended_lines and (n_ended or not rules.allow_no_ended_line):
            return "line_punct_ratio"
    if rules.max_short_lines is not None:
        n_short = sum(len(line) <= rules.short_line_length for line in lines)
        if n_short / len(lines) > rules.max_short_lines:
            return "short_line_ratio"
    n_newlines = view.text.count("\n")
    if rules.max_duplicate_line_characters is not None:
        n_again = count_again(lines)[1]
        if n_again / (len(view.text) - n_newlines) > rules.max_duplicate_line_characters:
            return "char_dup_ratio"
    if rules.max_newlines_per_word is not None and n_newlines / len(view.words) > rules.max_newlines_per_word:
        return "list_ratio"
    return None
