"""Which faults a run is given on purpose, and when: a typed, seeded schedule.

A run that was never broken is not known to survive. The kinds are those that long runs report: dead processes
(Llama 3, arXiv 2407.21783, 3.3.4: 419 unexpected interruptions in 54 days), gradients that are not finite, batches
and windows of data that spoil the state (PaLM, arXiv 2204.02311, 5.1), silent corruption of memory, checkpoints
that were torn or rotted, a disk that is full, a rank that lags.

This file is data alone: `modelstack.stability.fault_injection` performs it. In a recipe a fault is a table, as in
`faults = [{kind = "sigkill", step = 120, rank = 1}, {kind = "loss", step = 200, factor = inf}]`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelstack.errors import UserError


class _Fault(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    step: int = Field(ge=0)
    """Batches that the run has consumed before: the number in `StepReport`."""
    rank: int | None = Field(default=None, ge=0)
    """Where it happens; everywhere without."""


class SigKill(_Fault):
    """The process dies before the step's passes, as of the kernel out of memory."""

    kind: Literal["sigkill"] = "sigkill"


class BadGradient(_Fault):
    """One element of the gradient becomes `value` while the loss looks sound."""

    kind: Literal["gradient"] = "gradient"
    value: float = math.nan


class BadLoss(_Fault):
    """Loss and gradients are multiplied: 1000 for a bad batch; inf or nan for an overflow."""

    kind: Literal["loss"] = "loss"
    factor: float = 1000.0


class RandomTokens(_Fault):
    """A window of noise instead of data, at a raised learning rate: it spoils weights and moments."""

    kind: Literal["random_tokens"] = "random_tokens"
    rank: None = None
    n_steps: int = Field(default=10, ge=1)
    lr_factor: float = Field(default=5.0, gt=0)


class BitFlip(_Fault):
    """One bit of one weight flips; in fp32, 31 is the sign, 30 to 23 are the exponent."""

    kind: Literal["bit_flip"] = "bit_flip"
    parameter: str
    index: int = Field(default=0, ge=0)
    """Of the element, in this rank's share of the parameter, modulo its size."""
    bit: int = Field(default=30, ge=0)


class DamagedCheckpoint(_Fault):
    """The newest checkpoint loses the second half of its largest file, or has a bit flipped there."""

    kind: Literal["checkpoint"] = "checkpoint"
    rank: int = Field(default=0, ge=0)
    """Who does it."""
    damage: Literal["truncate", "flip"] = "truncate"


class FullDisk(_Fault):
    """The first checkpoint from this step on meets a disk that takes so many bytes of a file and no more."""

    kind: Literal["full_disk"] = "full_disk"
    n_bytes: int = Field(default=1 << 16, ge=0)


class SlowRank(_Fault):
    """The passes begin late."""

    kind: Literal["slow"] = "slow"
    n_steps: int = Field(default=1, ge=1)
    seconds: float = Field(default=1.0, gt=0)


Fault = Annotated[
    SigKill | BadGradient | BadLoss | RandomTokens | BitFlip | DamagedCheckpoint | FullDisk | SlowRank,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[_Fault]] = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Fault)[0])}
"""All faults by their name."""


class Faults(BaseModel):
    """A schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    schedule: tuple[Fault, ...] = ()
    seed: int = 0
    """Of random tokens."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        keys = [key_of(fault, fault.step) for fault in self.schedule]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"the schedule has {', '.join(twice)} twice; a fault happens once")
        return self


def key_of(fault: Fault, step: int) -> str:
    """Return the name of a fault as it happens at a step; those that last have one for each step."""
    where = "all" if fault.rank is None else fault.rank
    return f"{fault.kind} of step {fault.step}, rank {where}, at {step}"


def parse(tables: Sequence[Mapping[str, Any]], seed: int = 0) -> Faults:
    """Return the schedule of a recipe's tables.

    Args:
        tables: Each with `kind`, `step`, and what the kind has.
        seed: Of random tokens.

    Raises:
        UserError: A kind or key is not known, or a value does not fit.
    """
    for table in tables:
        kind = table.get("kind")
        if kind not in KINDS:
            nearest = get_close_matches(str(kind), KINDS, n=1) or list(KINDS)
            raise UserError(f"fault kind {kind!r} is not known; nearest: {', '.join(nearest)}")
    try:
        return Faults.model_validate({"schedule": tables, "seed": seed})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"faults: {where}: {first['msg']} (it is {first['input']!r})") from error


def at_random(makers: Sequence[Callable[[int], Fault]], *, seed: int, n_steps: int, mean_steps: float) -> Faults:
    """Return faults at times that do not know of each other: gaps are exponential, as failures of machines are.

    Kinds are dealt from a shuffled deck, shuffled anew when it is empty: a short run has each of them too.

    Args:
        makers: What can happen, from the step at which it does.
        seed: Of times and kinds.
        n_steps: All faults come before.
        mean_steps: Between two of them.
    """
    numbers = random.Random(seed)
    schedule: list[Fault] = []
    deck: list[Callable[[int], Fault]] = []
    at = numbers.expovariate(1 / mean_steps)
    while at < n_steps:
        if not deck:
            deck = numbers.sample(makers, len(makers))
        schedule.append(deck.pop()(int(at)))
        at += max(1.0, numbers.expovariate(1 / mean_steps))
    return Faults(schedule=tuple(schedule), seed=seed)
