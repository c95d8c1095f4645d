"""A decision of a reply that falls in one token: some tokens go on, others end, the rest decides nothing yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.sampling import LegalTokens
from modelstack.toolcalls.prior.lexical import EvidenceWeights


@dataclass(frozen=True, slots=True)
class Sides:
    """The tokens that decide at a place, by ascending id."""

    goes_on: NDArray[np.intp]
    ends: NDArray[np.intp]

    @classmethod
    def of(cls, goes_on: set[int], ends: set[int]) -> Sides | None:
        """Return the sides, without tokens that are on both; None where one is empty."""
        only_on, only_end = (np.array(sorted(ids), dtype=np.intp) for ids in (goes_on - ends, ends - goes_on))
        return cls(only_on, only_end) if only_on.size and only_end.size else None


@dataclass(frozen=True, slots=True)
class Decision:
    """The legal tokens of both sides, with how much more probable one side is."""

    goes_on: NDArray[np.intp]
    ends: NDArray[np.intp]
    log_odds: float
    """Of going on."""

    @classmethod
    def of(cls, sides: Sides | None, legal: LegalTokens, logits_V: NDArray[np.float32]) -> Decision | None:
        """Return how logits decide, None where nothing is decided or one side is illegal."""
        if sides is None:
            return None
        goes_on, ends = legal.among(sides.goes_on), legal.among(sides.ends)
        if not goes_on.size or not ends.size:
            return None
        return cls(goes_on, ends, _log_sum_exp(logits_V[goes_on]) - _log_sum_exp(logits_V[ends]))

    def __contains__(self, token: int) -> bool:
        """Say whether a token decides."""
        return token in self.goes_on or token in self.ends

    def moved(self, logits_V: NDArray[np.float32], bias: float) -> NDArray[np.float32]:
        """Return logits with the odds of going on multiplied by exp(bias).

        Both sides together keep their mass, so that tokens that decide nothing neither gain nor lose.
        """
        kept = np.logaddexp(0.0, self.log_odds) - np.logaddexp(0.0, self.log_odds + bias)
        moved = logits_V.copy()
        moved[self.goes_on] += np.float32(bias + kept)
        moved[self.ends] += np.float32(kept)
        return moved


@dataclass(frozen=True, slots=True)
class Evidenced:
    """A decision and the evidence of the request for going on."""

    decision: Decision
    evidence: tuple[float, ...]


class EvidenceBias(ABC):
    """Fulfils `modelstack.inference.engine.LogitBias`: moves the odds of decisions by weighed evidence."""

    def __init__(self, weights: EvidenceWeights | None) -> None:
        """Take the weights; without them decisions are only looked at."""
        self._weights = weights

    @abstractmethod
    def decision(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> Evidenced | None:
        """Return how the model decides behind `written`, None where not both ways are open."""

    def __call__(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Return the logits with both sides moved where a decision falls, None elsewhere."""
        found = None if self._weights is None else self.decision(written, legal, logits_V)
        if found is None or self._weights is None:
            return None
        return found.decision.moved(logits_V, self._weights.bias(found.evidence))


def _log_sum_exp(values: NDArray[np.float32]) -> float:
    return float(np.logaddexp.reduce(values.astype(np.float64)))
