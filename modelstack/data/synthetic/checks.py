"""Checks of generated documents; the first failed check is the reason to drop a document.

The checks cover length, copies of the seed document, language and evaluations. A model asked to rephrase often
copies instead, which would duplicate documents in the corpus: at most a given share of a document's 8-word runs
may occur in its seed. Quality rules and near-duplicates are left to the data pipeline, which reads the output.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, Field

from modelstack.data.contamination import Decontaminate
from modelstack.data.documents import Document
from modelstack.data.evaluation_texts import word_runs, words_of
from modelstack.data.language import Language

COPIED_WORDS = 8
"""Words per run; shorter runs are common phrases."""

Check = Callable[[Document, str], str | None]
"""Function of a document and the text of its seed: returns the reason to drop the document, or None."""


class Checks(BaseModel, frozen=True, extra="forbid"):
    """Limits and checks for generated documents."""

    min_characters: int = Field(default=200, ge=1)
    """Minimum characters; Nemotron-CC drops documents with fewer than 50 tokens."""
    max_characters: int = Field(default=20_000, ge=1)
    """Maximum characters of a document."""
    max_copied_share: float = Field(default=0.2, ge=0, le=1)
    """Maximum share of the document's 8-word runs that occur in its seed."""
    language: Language | None = Language()
    """Language check; None: any language."""
    decontaminate: Decontaminate | None = None
    """Decontamination; None: not checked here (the data pipeline can do it)."""

    def build(self) -> Check:
        """Return the check; loads the language model and the evaluations.

        Raises:
            UserError: A package or an evaluation is missing.
        """
        steps = [config.build() for config in (self.language, self.decontaminate) if config is not None]

        def check(document: Document, seed: str) -> str | None:
            if len(document.text) < self.min_characters:
                return "too_short"
            if len(document.text) > self.max_characters:
                return "too_long"
            if copied_share(document.text, seed) > self.max_copied_share:
                return "copies_seed"
            return next((reason for step in steps if (reason := step(document)) is not None), None)

        return check


def copied_share(text: str, seed: str) -> float:
    """Return the share of a text's 8-word runs that occur in its seed; a shorter text is one run."""
    n_words = min(COPIED_WORDS, len(words_of(text)))
    if not n_words:
        return 0.0
    known = set(word_runs(seed, n_words))
    runs = list(word_runs(text, n_words))
    return sum(run in known for run in runs) / len(runs)
