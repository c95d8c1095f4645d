"""A typed, seeded schedule of faults to inject into a run.

Recovery must be tested by real faults. The kinds are those that reports on long runs describe: dead processes
(Llama 3, arXiv 2407.21783, 3.3.4: 419 unexpected interruptions in 54 days), gradients that are not finite, batches
and windows of data that damage the state (PaLM, arXiv 2204.02311, 5.1), silent memory corruption, truncated or
corrupted checkpoints, a full disk, a slow rank.

This file contains only data; `modelstack.stability.fault_injection` performs the faults. In a recipe a fault is a
table: `faults = [{kind = "sigkill", step = 120, rank = 1}, {kind = "loss", step = 200, factor = inf}]`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelstack.errors import UserError, reason_of


class _Fault(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    step: int = Field(ge=0)
    """Number of batches that the run has consumed before: the number in `StepReport`."""
    rank: int | None = Field(default=None, ge=0)
    """Rank on which it happens; None: all ranks."""


class SigKill(_Fault):
    """Kill the process before the step's passes, as the kernel does when memory is exhausted."""

    kind: Literal["sigkill"] = "sigkill"


class BadGradient(_Fault):
    """Set one element of the gradient to `value`; the loss stays normal."""

    kind: Literal["gradient"] = "gradient"
    value: float = math.nan


class BadLoss(_Fault):
    """Multiply loss and gradients by `factor`: 1000 for a bad batch; inf or nan for an overflow."""

    kind: Literal["loss"] = "loss"
    factor: float = 1000.0


class RandomTokens(_Fault):
    """Replace data by noise for `n_steps` steps, at a raised learning rate, which damages weights and moments."""

    kind: Literal["random_tokens"] = "random_tokens"
    rank: None = None
    n_steps: int = Field(default=10, ge=1)
    lr_factor: float = Field(default=5.0, gt=0)


class BitFlip(_Fault):
    """Flip one bit of one weight; in fp32, bit 31 is the sign, bits 30 to 23 are the exponent."""

    kind: Literal["bit_flip"] = "bit_flip"
    parameter: str
    index: int = Field(default=0, ge=0)
    """Index of the element in this rank's share of the parameter, modulo its size."""
    bit: int = Field(default=30, ge=0)


class DamagedCheckpoint(_Fault):
    """Truncate the largest file of the newest checkpoint to half, or flip a bit in it."""

    kind: Literal["checkpoint"] = "checkpoint"
    rank: int = Field(default=0, ge=0)
    """Rank that damages the file."""
    damage: Literal["truncate", "flip"] = "truncate"


class FullDisk(_Fault):
    """Fail the first checkpoint from this step on, with a disk that accepts only `n_bytes` bytes per file."""

    kind: Literal["full_disk"] = "full_disk"
    n_bytes: int = Field(default=1 << 16, ge=0)


class SlowRank(_Fault):
    """Delay the start of the passes."""

    kind: Literal["slow"] = "slow"
    n_steps: int = Field(default=1, ge=1)
    seconds: float = Field(default=1.0, gt=0)


Fault = Annotated[
    SigKill | BadGradient | BadLoss | RandomTokens | BitFlip | DamagedCheckpoint | FullDisk | SlowRank,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[_Fault]] = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Fault)[0])}
"""All kinds of faults by name."""


class Faults(BaseModel):
    """A schedule of faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    schedule: tuple[Fault, ...] = ()
    seed: int = 0
    """Seed of random tokens."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        keys = [key_of(fault, fault.step) for fault in self.schedule]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"the schedule contains {', '.join(twice)} twice; each fault must be unique")
        return self


def key_of(fault: Fault, step: int) -> str:
    """Return the name of a fault at a step; a fault that lasts several steps has one name per step."""
    where = "all" if fault.rank is None else fault.rank
    return f"{fault.kind} of step {fault.step}, rank {where}, at {step}"


def parse(tables: Sequence[Mapping[str, Any]], seed: int = 0) -> Faults:
    """Return the schedule of a recipe's tables.

    Args:
        tables: Tables with `kind`, `step`, and the fields of the kind.
        seed: Seed of random tokens.

    Raises:
        UserError: A kind or key is unknown, or a value is invalid.
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
        raise UserError(f"faults: {where}: {reason_of(first)} (it is {first['input']!r})") from error


def at_random(makers: Sequence[Callable[[int], Fault]], *, seed: int, n_steps: int, mean_steps: float) -> Faults:
    """Return faults at independent random times, with exponential gaps, like failures of machines.

    Kinds are drawn from a shuffled deck that is reshuffled when empty, so even a short run has each of them.

    Args:
        makers: Possible faults, as functions of the step.
        seed: Seed of times and kinds.
        n_steps: All faults happen before this step.
        mean_steps: Mean number of steps between two faults.
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
