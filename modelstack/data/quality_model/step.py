"""The step of a run that scores documents with a fitted model and drops what is below a threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from modelstack.data.documents import Document, Step
from modelstack.data.quality_model.model import QualityModel

REASON = "low_quality_score"
DECIMALS = 4


class QualityScore(BaseModel, frozen=True, extra="forbid"):
    """Scores each document (`metadata["quality_score"]`), and drops those below a threshold.

    DCLM keeps the best tenth of its pool (arXiv 2406.11794, section 4.4), FineWeb-Edu what was judged 3 of 5
    (arXiv 2406.17557, section 4); `modelstack data quality` prints which threshold keeps how much.
    """

    kind: Literal["quality_score"] = "quality_score"
    model: Path
    threshold: float | None = Field(default=0.5, ge=0, le=1)
    """Of the probability; None: scored and kept."""

    def build(self) -> Step:
        """Read the model.

        Raises:
            UserError: it is missing or none.
        """
        model = QualityModel.load(self.model)

        def score(document: Document) -> str | None:
            found = model.score(document.text)
            document.metadata["quality_score"] = round(found, DECIMALS)
            return REASON if self.threshold is not None and found < self.threshold else None

        return score
