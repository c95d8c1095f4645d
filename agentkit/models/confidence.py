"""Calibration of a model's confidence in its choice between tools.

A local model's probabilities are masses under the grammar's mask. As for most networks, they differ from the share
of correct choices. One parameter corrects most of the difference, fitted on choices labelled right or wrong: the
temperature T, with p_i^(1/T) / sum_j p_j^(1/T) over the available choices (Guo et al., "On Calibration of Modern
Neural Networks", arXiv 1706.04599). The ranking of the choices does not change.

Below a threshold an agent may require approval (`agentkit.guardrails.AskWhenUnsure`), abstain
(`agentkit.models.calibration.CalibratedModel(abstain_below=...)`), or fall back to a larger model
(`FallbackModel(min_confidence=...)`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agentkit.errors import UserError
from agentkit.messages import ModelResponse, ModelResponsePart, ToolCallPart

VERSION = 1
"""Version of the calibration file format."""
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
_LEAST = 1e-9
"""Lower bound on the probability of a choice; the masses come from 32-bit floats."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice of a model, and whether it was right."""

    probability: float
    """Probability of the chosen option."""
    alternatives: tuple[float, ...]
    """Probabilities of the other options; empty if only their sum is known."""
    is_right: bool

    @classmethod
    def of(cls, response: ModelResponse, is_right: bool) -> Decision | None:
        """Return the first decision of a response; None if the model reported no probability."""
        if not response.tool_calls:
            return None if response.p_answer is None else cls(response.p_answer, (), is_right)
        first = response.tool_calls[0]
        if first.probability is None:
            return None
        return cls(first.probability, tuple(mass for _, mass in first.alternatives), is_right)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The temperature of one model's choices."""

    temperature: float = 1.0
    """Temperature T; above 1 for an overconfident model."""
    n: int = 0
    """Number of decisions used for the fit."""
    model: str | None = None
    """Name of the model that made the decisions."""

    def __post_init__(self) -> None:
        """Reject a temperature outside the bounds.

        Raises:
            UserError: it is not between `LOWEST_TEMPERATURE` and `HIGHEST_TEMPERATURE`.
        """
        if not LOWEST_TEMPERATURE <= self.temperature <= HIGHEST_TEMPERATURE:
            raise UserError(
                f"temperature={self.temperature!r} of a calibration must be from {LOWEST_TEMPERATURE:g} to "
                f"{HIGHEST_TEMPERATURE:g}; 1 changes nothing."
            )

    @classmethod
    def fit(cls, decisions: Sequence[Decision], *, model: str | None = None) -> Calibration:
        """Fit the temperature with maximum likelihood of the labels of `decisions`.

        Raises:
            UserError: all decisions are right or all are wrong, which determines no temperature.
        """
        n_right = sum(each.is_right for each in decisions)
        if not 0 < n_right < len(decisions):
            raise UserError(
                f"{n_right} of {len(decisions)} decisions are right: a temperature needs right ones and wrong "
                f"ones; give more cases, or harder ones."
            )
        low, high = math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)
        ratios = [(_log_ratios(each), each.is_right) for each in decisions]
        best = _lowest(lambda at: _loss(ratios, math.exp(at)), low, high)
        return cls(min(HIGHEST_TEMPERATURE, max(LOWEST_TEMPERATURE, math.exp(best))), len(decisions), model)

    def probability(self, decision: Decision) -> float:
        """Return the calibrated probability that the choice is right."""
        return _scaled(decision.probability, decision.alternatives, self.temperature)[0]

    def applied(self, response: ModelResponse) -> ModelResponse:
        """Return the response with calibrated probabilities, including those of the alternatives."""
        if self.temperature == 1.0:
            return response
        p_answer = response.p_answer
        if p_answer is not None:
            p_answer = _scaled(p_answer, (), self.temperature)[0]
        return replace(response, parts=tuple(map(self._applied, response.parts)), p_answer=p_answer)

    def _applied(self, part: ModelResponsePart) -> ModelResponsePart:
        if not isinstance(part, ToolCallPart) or part.probability is None:
            return part
        masses = tuple(mass for _, mass in part.alternatives)
        probability, *others = _scaled(part.probability, masses, self.temperature)
        names = (name for name, _ in part.alternatives)
        return replace(part, probability=probability, alternatives=tuple(zip(names, others, strict=True)))

    def save(self, path: str | Path) -> None:
        """Write the calibration as JSON.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            Path(path).write_text(_Stored(**asdict(self)).model_dump_json(indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"calibration {path} cannot be written: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read a file that `save` wrote.

        Raises:
            UserError: the file is missing, or is not a calibration of this version.
        """
        try:
            stored = _Stored.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"calibration {path} cannot be read: {error}") from error
        except ValidationError as error:
            raise UserError(
                f"{path} is no calibration of version {VERSION}, as `agentkit calibrate` writes: "
                f"{error.errors()[0]['msg']}."
            ) from error
        return cls(stored.temperature, stored.n, stored.model)


class _Stored(BaseModel):
    """Content of a calibration file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1] = VERSION
    temperature: float
    n: int
    model: str | None


def decision_confidence(response: ModelResponse) -> float | None:
    """Return the lowest known probability of a response's calls, or of answering instead; None if unknown."""
    if not response.tool_calls:
        return response.p_answer
    return min((c.probability for c in response.tool_calls if c.probability is not None), default=None)


def log_loss(decisions: Sequence[Decision], temperature: float) -> float:
    """Return the mean of -log p for right and -log(1 - p) for wrong decisions, in nats."""
    total = 0.0
    for each in decisions:
        p = _scaled(each.probability, each.alternatives, temperature)[0]
        total -= math.log(max(_LEAST, p if each.is_right else 1.0 - p))
    return total / len(decisions)


def _log_ratios(decision: Decision) -> tuple[float, ...]:
    """Return log(p_i / p) of each other option, where p belongs to the chosen one; computed once for a fit."""
    chosen = math.log(max(_LEAST, decision.probability))
    others = decision.alternatives or (1.0 - decision.probability,)
    return tuple(math.log(max(_LEAST, other)) - chosen for other in others)


def _loss(ratios: Sequence[tuple[tuple[float, ...], bool]], temperature: float) -> float:
    """Return `log_loss` of decisions, each given as its log ratios and whether it was right, for a fit.

    Probabilities are normalised at each temperature. With odds o = sum_i (p_i / p)^(1/T) against the choice, p is
    1 / (1 + o) and 1 - p is o / (1 + o). Log ratios are at most log(1 / `_LEAST`), so o is finite from
    `LOWEST_TEMPERATURE` on.
    """
    total, most = 0.0, -math.log(_LEAST)
    for logs, is_right in ratios:
        odds = 0.0
        for log_ratio in logs:
            odds += math.exp(log_ratio / temperature)
        total += min(most, math.log1p(odds) - (0.0 if is_right else math.log(odds)))
    return total / len(ratios)


def _scaled(chosen: float, others: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Return the calibrated probabilities of the choice and of `others`; without `others` of the choice alone."""
    if temperature == 1.0:
        return (chosen, *others)
    given = (chosen, *others) if others else (chosen, 1.0 - chosen)
    logits = [math.log(max(_LEAST, p)) / temperature for p in given]
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    total = math.fsum(weights)
    scaled = tuple(weight / total for weight in weights)
    return scaled if others else scaled[:1]


def _lowest(function: Callable[[float], float], low: float, high: float, *, n_steps: int = 40) -> float:
    """Return the minimiser of a unimodal function: a grid, then golden-section search around its best point.

    Each step of the search reuses one of the two values of the step before it.
    """
    width = (high - low) / n_steps
    best = min((low + width * k for k in range(n_steps + 1)), key=function)
    low, high, ratio = max(low, best - width), min(high, best + width), (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(n_steps):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
