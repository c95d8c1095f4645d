"""Whether a document that a model wrote may be trained on; the first rule that it breaks is why it goes.

Lengths, copies of what it was written after, language, evaluations. A model that is asked to rephrase often copies
instead, and then the corpus has its documents twice: of a document's runs of 8 words at most a share may stand in
its seed. Quality rules and near-duplicates are those of `modelstack data`, which reads what is written here.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, Field

from modelstack.data.contamination import Decontaminate
from modelstack.data.documents import Document
from modelstack.data.evaluation_texts import word_runs, words_of
from modelstack.data.language import Language

COPIED_WORDS = 8
"""Of a run: shorter ones are everyday phrases."""

Check = Callable[[Document, str], str | None]
"""Of a document and the text that it was written after: the reason to drop it, None to keep it."""


class Checks(BaseModel, frozen=True, extra="forbid"):
    """What a document must be."""

    min_characters: int = Field(default=200, ge=1)
    """Nemotron-CC drops what has fewer than 50 tokens."""
    max_characters: int = Field(default=20_000, ge=1)
    max_copied_share: float = Field(default=0.2, ge=0, le=1)
    """Of a document's runs of 8 words, those that stand in its seed."""
    language: Language | None = Language()
    """None: any."""
    decontaminate: Decontaminate | None = None
    """None: not held against evaluations here; `modelstack data` can do it."""

    def build(self) -> Check:
        """Return the check; loads the model of languages and the evaluations.

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
    """Return the share of a text's runs of 8 words that stand in its seed; a shorter text is one run."""
    n_words = min(COPIED_WORDS, len(words_of(text)))
    if not n_words:
        return 0.0
    known = set(word_runs(seed, n_words))
    runs = list(word_runs(text, n_words))
    return sum(run in known for run in runs) / len(runs)
