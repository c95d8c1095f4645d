"""Learning-rate schedules: pure functions from the step to a factor on the learning rate.

Warm-up, stable, decay (WSD; MiniCPM, arXiv 2404.06395): the stable part does not depend on the end of the run, so
one run gives many models, each by a short decay from any of its steps (`branch`). The decay falls linearly, as a
cosine (DeepSeek-V4), or as 1 - sqrt (Haegele et al., 2405.18392, the best of their decays). Cosine after warm-up
is Chinchilla's. Steps count from 0. The last step of the warm-up has factor 1. `total_steps` is the first step
that is not taken; it and all later steps have `final_factor`.

Letters: p the completed fraction of the decay, from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelstack.errors import UserError

Factor = Callable[[int], float]


class ScheduleConfig(BaseModel):
    """Schedule settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    """Kind of schedule; `constant`, and `wsd` without `total_steps`, never decay."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of the warm-up, in which the factor rises linearly from 1 / warmup_steps at step 0."""
    total_steps: int | None = Field(default=None, ge=1)
    decay_steps: int | None = Field(default=None, ge=1)
    """Steps of the decay in `wsd`: the last ones before `total_steps`."""
    decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
    """Shape of the decay in `wsd`."""
    final_factor: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if self.kind == "constant" and (self.total_steps or self.decay_steps):
            raise ValueError("a constant schedule has no total_steps and no decay_steps; omit them")
        if self.kind == "cosine" and (self.total_steps is None or self.decay_steps):
            raise ValueError(
                "a cosine schedule requires total_steps and no decay_steps: it decays from the end of the warm-up"
            )
        if self.kind == "wsd" and (self.total_steps is None) != (self.decay_steps is None):
            raise ValueError("wsd requires both total_steps and decay_steps, or neither for a run without decay")
        if self.total_steps is not None and self.warmup_steps + (self.decay_steps or 1) > self.total_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps or 1} do not fit into "
                f"total_steps {self.total_steps}"
            )
        return self


def schedule(config: ScheduleConfig) -> Factor:
    """Return the factor of each step."""
    tail = cosine_tail if config.kind == "cosine" else TAILS[config.decay_shape]

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        if config.total_steps is None:
            return warm
        n_decay = config.decay_steps or config.total_steps - config.warmup_steps
        p = (step - (config.total_steps - n_decay)) / n_decay
        left = tail(min(1.0, max(0.0, p)))
        return warm * (config.final_factor + (1.0 - config.final_factor) * left)

    return factor


def branch(config: ScheduleConfig, step: int, decay_steps: int) -> ScheduleConfig:
    """Return the schedule that equals `config`'s before `step` and decays from there.

    A checkpoint of the stable run, saved before it took `step`, can be resumed with it.

    Args:
        config: A `wsd` schedule.
        step: The first step of the decay; it still has factor 1.
        decay_steps: Number of steps of the decay.

    Raises:
        UserError: The schedule is not `wsd`, or `step` is in its warm-up or decay.
    """
    if config.kind != "wsd":
        raise UserError(f"a {config.kind} schedule has no stable part to branch from; train with kind = 'wsd'")
    if step < config.warmup_steps:
        raise UserError(f"step {step} is in the warm-up; branch at {config.warmup_steps} or later")
    if config.total_steps is not None and step > (end := config.total_steps - (config.decay_steps or 0)):
        raise UserError(f"step {step} is in the decay; branch at {end} or earlier")
    values = config.model_dump() | {"total_steps": step + decay_steps, "decay_steps": decay_steps}
    return ScheduleConfig.model_validate(values)


def linear_tail(p: float) -> float:
    """Return 1 - p."""
    return 1.0 - p


def cosine_tail(p: float) -> float:
    """Return half a cosine wave, from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * p))


def sqrt_tail(p: float) -> float:
    """Return 1 - sqrt(p), which is steep at first."""
    return 1.0 - math.sqrt(p)


TAILS: dict[str, Callable[[float], float]] = {"linear": linear_tail, "cosine": cosine_tail, "sqrt": sqrt_tail}
