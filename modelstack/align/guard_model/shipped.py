"""Guards in the package: an adapter for a base of the catalog, its operating points, its card.

A folder `weights/ID` holds `adapter.gguf`, `points.json` and `README.md`, the card. Thresholds are log-odds, set
on ordinary traffic that the guard was not trained on. Requests may be judged by the sum with the linear
classifier, whose errors are others: at the same rate of false alarms the sum finds more.
"""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from modelstack.errors import UserError

ADAPTER_FILE, POINTS_FILE = "adapter.gguf", "points.json"
_FOLDER = Path(__file__).parent / "weights"


class WithClassifier(BaseModel, frozen=True, extra="forbid"):
    """Thresholds for requests on the log-odds of the guard plus weighted ones of the linear classifier."""

    weight: FiniteFloat = Field(gt=0)
    """Weight of the classifier's log-odds."""
    thresholds: dict[str, FiniteFloat]
    """Least flagged sum by name."""


class OperatingPoints(BaseModel, frozen=True, extra="forbid"):
    """Thresholds of a guard on the log-odds of `unsafe`, by the rate of false alarms on ordinary traffic."""

    base_sha256: str
    """SHA-256 of the base model's file."""
    thresholds: dict[str, FiniteFloat]
    """Least flagged log-odds by name: "fpr_0.1" flags 0.1 % of ordinary messages."""
    n_ordinary: int = Field(ge=1)
    """Number of ordinary messages that the thresholds were set on."""
    with_classifier: WithClassifier | None = None
    """Sum with the linear classifier, for requests; None: they are judged by the guard alone."""

    def flagged_at(self, probability: float, classifier: float | None = None) -> tuple[str, ...]:
        """Return the operating points that flag a verdict, strictest first.

        Args:
            probability: The guard's probability of `unsafe`.
            classifier: The linear classifier's probability for a request; None judges by the guard alone.
        """
        odds, thresholds = log_odds(probability), self.thresholds
        if classifier is not None and self.with_classifier is not None:
            odds += self.with_classifier.weight * log_odds(classifier)
            thresholds = self.with_classifier.thresholds
        ordered = sorted(thresholds.items(), key=lambda item: -item[1])
        return tuple(name for name, least in ordered if odds >= least)


def log_odds(probability: float) -> float:
    """Return log(p / (1 - p)), bounded where p is rounded to 0 or 1."""
    bounded = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(bounded / (1 - bounded))


def shipped_guards() -> tuple[str, ...]:
    """Return the ids of the base models that have a guard in the package."""
    return tuple(sorted(file.parent.name for file in _FOLDER.glob(f"*/{ADAPTER_FILE}")))


def shipped_guard(model_id: str) -> Path:
    """Return the folder of the guard for a base model of the catalog.

    Raises:
        UserError: The package has no guard for it.
    """
    if model_id not in (known := shipped_guards()):
        raise UserError(
            f"there is no guard for {model_id!r} in the package; there are {', '.join(known) or 'none'}"
        )
    return _FOLDER / model_id


def read_points(folder: Path) -> OperatingPoints:
    """Return the operating points in a guard's folder.

    Raises:
        UserError: The file is missing or broken.
    """
    file = folder / POINTS_FILE
    try:
        return OperatingPoints.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}; a guard needs its operating points") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
