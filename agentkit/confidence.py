"""How sure a model is of its choice between tools, made to mean what it says, and what to do where it is not sure.

A local model's probabilities are masses under the grammar's mask, and like those of most networks they are not the
share of choices that are right. One number mends most of that, fitted on choices of which it is known whether they
were right: the temperature T, with p_i^(1/T) / sum_j p_j^(1/T) over the choices that there were (Guo et al., "On
Calibration of Modern Neural Networks", arXiv 1706.04599). It leaves the order of the choices as it is.

Below a threshold an agent may ask somebody (`agentkit.guardrails.AskWhenUnsure`), abstain
(`agentkit.models.calibrated.CalibratedModel(abstain_below=...)`), or hand over to a larger model
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
"""Of the file of a calibration."""
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
_LEAST = 1e-9
"""Probability that a choice is held to have at least; the masses come from 32-bit numbers."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice of a model, and whether it was right."""

    probability: float
    """Of what was chosen."""
    alternatives: tuple[float, ...]
    """Of all else; empty where only the rest as a whole is known."""
    is_right: bool

    @classmethod
    def of(cls, response: ModelResponse, is_right: bool) -> Decision | None:
        """Return the first choice of a response, None where the model gave no probability."""
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
    """Above 1 where the model is surer than it should be."""
    n: int = 0
    """Decisions that it was fitted on."""
    model: str | None = None
    """Whose they were."""

    def __post_init__(self) -> None:
        """Refuse what is no temperature.

        Raises:
            UserError: it is not within `LOWEST_TEMPERATURE` and `HIGHEST_TEMPERATURE`.
        """
        if not LOWEST_TEMPERATURE <= self.temperature <= HIGHEST_TEMPERATURE:
            raise UserError(
                f"temperature={self.temperature!r} of a calibration must be from {LOWEST_TEMPERATURE:g} to "
                f"{HIGHEST_TEMPERATURE:g}; 1 changes nothing."
            )

    @classmethod
    def fit(cls, decisions: Sequence[Decision], *, model: str | None = None) -> Calibration:
        """Return the temperature under which it is likeliest that the right ones were right, the wrong ones wrong.

        Raises:
            UserError: all decisions are right or all are wrong: no temperature follows from that.
        """
        n_right = sum(each.is_right for each in decisions)
        if not 0 < n_right < len(decisions):
            raise UserError(
                f"{n_right} of {len(decisions)} decisions are right: a temperature needs right ones and wrong "
                f"ones; give more cases, or harder ones."
            )
        low, high = math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)
        best = _lowest(lambda at: log_loss(decisions, math.exp(at)), low, high)
        return cls(min(HIGHEST_TEMPERATURE, max(LOWEST_TEMPERATURE, math.exp(best))), len(decisions), model)

    def probability(self, decision: Decision) -> float:
        """Return how likely the choice is to be right."""
        return _scaled(decision.probability, decision.alternatives, self.temperature)[0]

    def applied(self, response: ModelResponse) -> ModelResponse:
        """Return a response with calibrated probabilities, those of the alternatives included."""
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
        """Write it as JSON.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            Path(path).write_text(_Stored(**asdict(self)).model_dump_json(indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"calibration {path} cannot be written: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            UserError: the file is not there, or is no calibration of this version.
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
    """A calibration's file."""

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
    """Return the mean of -log p where right and -log(1 - p) where wrong, in nats."""
    total = 0.0
    for each in decisions:
        p = _scaled(each.probability, each.alternatives, temperature)[0]
        total -= math.log(max(_LEAST, p if each.is_right else 1.0 - p))
    return total / len(decisions)


def _scaled(chosen: float, others: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Return the calibrated probabilities of the choice and of the others, which may be the rest as a whole."""
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
    """Return where a function of one valley is lowest: a grid, then golden-section search about its best point."""
    width = (high - low) / n_steps
    best = min((low + width * k for k in range(n_steps + 1)), key=function)
    low, high, ratio = max(low, best - width), min(high, best + width), (math.sqrt(5) - 1) / 2
    for _ in range(n_steps):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(left) <= function(right):
            high = right
        else:
            low = left
    return (low + high) / 2
