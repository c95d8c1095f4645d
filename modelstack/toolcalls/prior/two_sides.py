"""Decisions that fall in one token: some tokens continue, others end, and the rest decides nothing yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.legal_tokens import LegalTokens
from modelstack.toolcalls.prior.lexical import EvidenceWeights


@dataclass(frozen=True, slots=True)
class Sides:
    """The deciding tokens at a position, by ascending id."""

    goes_on: NDArray[np.intp]
    ends: NDArray[np.intp]

    @classmethod
    def of(cls, goes_on: set[int], ends: set[int]) -> Sides | None:
        """Return the sides without tokens that are on both; None if a side is empty."""
        only_on, only_end = (np.array(sorted(ids), dtype=np.intp) for ids in (goes_on - ends, ends - goes_on))
        return cls(only_on, only_end) if only_on.size and only_end.size else None


@dataclass(frozen=True, slots=True)
class Decision:
    """The legal tokens of both sides, with the log-odds between them."""

    goes_on: NDArray[np.intp]
    ends: NDArray[np.intp]
    log_odds: float
    """Log-odds of continuing."""

    @classmethod
    def of(cls, sides: Sides | None, legal: LegalTokens, logits_V: NDArray[np.float32]) -> Decision | None:
        """Return the decision in some logits; None if nothing is decided or one side is illegal."""
        if sides is None:
            return None
        goes_on, ends = legal.among(sides.goes_on), legal.among(sides.ends)
        if not goes_on.size or not ends.size:
            return None
        return cls(goes_on, ends, _log_sum_exp(logits_V[goes_on]) - _log_sum_exp(logits_V[ends]))

    def __contains__(self, token: int) -> bool:
        """Return whether a token decides."""
        return token in self.goes_on or token in self.ends

    def moved(self, logits_V: NDArray[np.float32], bias: float) -> NDArray[np.float32]:
        """Return logits with the odds of continuing multiplied by exp(bias).

        The total mass of both sides stays the same, so tokens that decide nothing keep their probability.
        """
        kept = np.logaddexp(0.0, self.log_odds) - np.logaddexp(0.0, self.log_odds + bias)
        moved = logits_V.copy()
        moved[self.goes_on] += np.float32(bias + kept)
        moved[self.ends] += np.float32(kept)
        return moved


@dataclass(frozen=True, slots=True)
class Evidenced:
    """A decision, and the evidence of the request for continuing."""

    decision: Decision
    evidence: tuple[float, ...]


class EvidenceBias(ABC):
    """Moves the odds of decisions by weighted evidence; an `engine.LogitBias`."""

    def __init__(self, weights: EvidenceWeights | None) -> None:
        """Store the weights; without weights decisions are only observed."""
        self._weights = weights

    @abstractmethod
    def decision(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> Evidenced | None:
        """Return the model's decision after `written`; None unless both sides are legal."""

    def __call__(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Return the logits with both sides moved if a decision falls here, else None."""
        found = None if self._weights is None else self.decision(written, legal, logits_V)
        if found is None or self._weights is None:
            return None
        return found.decision.moved(logits_V, self._weights.bias(found.evidence))


def _log_sum_exp(values: NDArray[np.float32]) -> float:
    return float(np.logaddexp.reduce(values.astype(np.float64)))
