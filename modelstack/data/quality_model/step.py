"""Step `quality_score`: scores documents with a fitted model and drops those below a threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from modelstack.data.documents import Document, Step
from modelstack.data.quality_model.model import QualityModel

REASON = "low_quality_score"
DECIMALS = 4


class QualityScore(BaseModel, frozen=True, extra="forbid"):
    """Scores each document (`metadata["quality_score"]`) and drops those below a threshold.

    DCLM keeps the best tenth of its pool (arXiv 2406.11794, section 4.4). FineWeb-Edu keeps pages rated at least 3
    of 5 (arXiv 2406.17557, section 4). The card of a fitted model lists the share kept by each threshold.

    Reason: `low_quality_score`.
    """

    kind: Literal["quality_score"] = "quality_score"
    model: Path
    """File `quality.safetensors` that `modelstack data quality` wrote."""
    threshold: float | None = Field(default=0.5, ge=0, le=1)
    """Minimum probability of a kept document; None: score without dropping."""

    def build(self) -> Step:
        """Return the step; reads the model.

        Raises:
            UserError: The file is missing or not a quality model.
        """
        model = QualityModel.load(self.model)

        def score(document: Document) -> str | None:
            found = model.score(document.text)
            document.metadata["quality_score"] = round(found, DECIMALS)
            return REASON if self.threshold is not None and found < self.threshold else None

        return score
