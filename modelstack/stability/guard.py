"""Whether a step may move the weights: decided before the optimizer does, and by all ranks alike.

A loss or gradient norm that is not finite, or far above what the last steps had, is kept from the weights by not
taking the step. Multiplying the update by 0 instead would let NaN through (NaN * 0 = NaN: OLMo-core's rule fed one
NaN gradient leaves NaN weights). The threshold is robust, median + k * MAD of the accepted values: a mean and a
standard deviation are widened by the first spike, so that the second passes, and poisoned for the whole window by
one NaN. Rejected values never enter the window.

One bad batch is skipped. Several in a row may mean that the state itself is damaged: back to a checkpoint, and
past the data that led there (PaLM, arXiv 2204.02311, 5.1: the same batches from an earlier state did not spike).
When that does not help for some times, the run stops, with the batch written down, rather than to burn hours. They
may also mean a window of bad data, which no rejected step let into the weights: `is_sound` tells the two apart by
the loss on a batch that was good before, and nothing has to be thrown away.

`judge` is a pure function on plain data; `Guard` keeps its memory and asks the other ranks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from itertools import takewhile
from typing import Any

from pydantic import BaseModel, Field

MAD_TO_SIGMA = 1.4826
"""A normal distribution's standard deviation in units of its median absolute deviation."""


class Verdict(IntEnum):
    """What to do with a step; the largest of all ranks holds."""

    GO = 0
    SKIP = 1
    ROLL_BACK = 2
    STOP = 3


class GuardConfig(BaseModel, frozen=True, extra="forbid"):
    """When a step is not taken."""

    window: int = Field(default=128, ge=8)
    """Accepted steps that thresholds are made from."""
    warmup: int = Field(default=32, ge=4)
    """Accepted steps before there are thresholds; until then only what is not finite is rejected."""
    k: float = Field(default=8.0, gt=0)
    """Robust standard deviations above the median."""
    min_loss_rise: float = Field(default=0.2, ge=0)
    """Share of the median that a loss must exceed it by, however calm the window was."""
    min_loss_rise_absolute: float = Field(default=0.0, ge=0)
    """What a loss must exceed the median by in its own units: for losses around 0, of which shares say nothing."""
    min_norm_rise: float = Field(default=3.0, ge=1)
    """Factor that a gradient norm must exceed its median by, however calm the window was."""
    skips_in_a_row: int = Field(default=4, ge=1)
    """So many rejected steps in a row are a damaged state."""
    skips_in_window: int = Field(default=16, ge=1)
    """So many rejected steps among the last `window` are one too."""
    patience: int = Field(default=64, ge=1)
    """So many rejected steps in a row are bad data where the state proves sound; more are damage anyway."""
    max_roll_backs: int = Field(default=4, ge=0)
    """Then the run stops."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the guard remembers; plain data, part of a checkpoint."""

    losses: tuple[float, ...] = ()
    log_norms: tuple[float, ...] = ()
    """Natural logarithms: norms scatter by factors."""
    recent: tuple[bool, ...] = ()
    """Whether each of the last steps was rejected."""
    n_roll_backs: int = 0
    n_skipped: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and why."""

    verdict: Verdict
    reason: str
    """Empty where the step may go."""


def judge(config: GuardConfig, memory: Memory, loss: float, norm: float) -> tuple[Memory, Judgement]:
    """Judge one step.

    Args:
        config: The thresholds.
        memory: Of the steps before.
        loss: Of this step, all micro-batches together.
        norm: Of the gradient, before clipping.

    Returns:
        The memory with this step in it, and the judgement.
    """
    reason = _complaint(config, memory, loss, norm)
    recent = (*memory.recent, bool(reason))[-config.window :]
    if not reason:
        accepted = replace(
            memory,
            losses=(*memory.losses, loss)[-config.window :],
            log_norms=(*memory.log_norms, _log(norm))[-config.window :],
            recent=recent,
        )
        return accepted, Judgement(Verdict.GO, "")
    rejected = replace(memory, recent=recent, n_skipped=memory.n_skipped + 1)
    in_a_row = _in_a_row(recent)
    if in_a_row < config.skips_in_a_row and sum(recent) < config.skips_in_window:
        return rejected, Judgement(Verdict.SKIP, reason)
    if memory.n_roll_backs >= config.max_roll_backs:
        return rejected, Judgement(Verdict.STOP, f"{reason}; {memory.n_roll_backs} roll-backs did not help")
    return rejected, Judgement(Verdict.ROLL_BACK, f"{reason}; {in_a_row} in a row, {sum(recent)} of {len(recent)}")


def after_roll_back(memory: Memory, restored: Memory) -> Memory:
    """Return the memory to go on with: thresholds of the restored state, counters of the whole run."""
    return replace(restored, recent=(), n_roll_backs=memory.n_roll_backs + 1, n_skipped=memory.n_skipped)


def threshold(values: tuple[float, ...], k: float) -> float:
    """Return median + k robust standard deviations."""
    middle = statistics.median(values)
    return middle + k * MAD_TO_SIGMA * statistics.median(abs(value - middle) for value in values)


class Guard:
    """The judge with its memory, agreed among ranks."""

    def __init__(self, config: GuardConfig, worst_of_ranks: Callable[[int], int] = lambda own: own) -> None:
        """Begin without a memory; `worst_of_ranks` is an all-reduce MAX where there are several."""
        self.config = config
        self.memory = Memory()
        self._worst_of_ranks = worst_of_ranks

    def judge(self, loss: float, norm: float) -> Judgement:
        """Judge a step by all ranks' verdicts; to be called by each of them at each step."""
        memory, own = judge(self.config, self.memory, loss, norm)
        worst = Verdict(self._worst_of_ranks(int(own.verdict)))
        if worst > own.verdict:
            # Another rank rejects what looks sound here: this rank's memory must not accept it.
            recent = (*self.memory.recent, True)[-self.config.window :]
            memory = replace(self.memory, recent=recent, n_skipped=self.memory.n_skipped + 1)
            own = Judgement(worst, "another rank rejected the step")
        self.memory = memory
        return own

    @property
    def is_patient(self) -> bool:
        """Whether a sound state is reason enough to go on with skipping."""
        return _in_a_row(self.memory.recent) < self.config.patience

    def is_sound(self, loss: float, norm: float) -> bool:
        """Say whether a batch that was good is still so, by all ranks' verdicts; nothing of it is remembered."""
        return not self._worst_of_ranks(int(bool(_complaint(self.config, self.memory, loss, norm))))

    def roll_back(self, restored: dict[str, Any]) -> None:
        """Go on from a checkpoint's memory, with the run's own counters."""
        self.memory = after_roll_back(self.memory, _from_state(restored))

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain data."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.memory).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a memory: a resumed run is not blind for a window."""
        self.memory = _from_state(state)


def _complaint(config: GuardConfig, memory: Memory, loss: float, norm: float) -> str:
    if not math.isfinite(loss):
        return f"loss is {loss}"
    if not math.isfinite(norm):
        return f"gradient norm is {norm}"
    if len(memory.losses) < config.warmup:
        return ""
    middle = statistics.median(memory.losses)
    rise = max(config.min_loss_rise * abs(middle), config.min_loss_rise_absolute)
    limit = max(threshold(memory.losses, config.k), middle + rise)
    if loss > limit:
        return f"loss {loss:.4g} is above {limit:.4g} (median {middle:.4g})"
    middle = statistics.median(memory.log_norms)
    log_limit = max(threshold(memory.log_norms, config.k), middle + math.log(config.min_norm_rise))
    if _log(norm) > log_limit:
        return f"gradient norm {norm:.4g} is above {math.exp(log_limit):.4g} (median {math.exp(middle):.4g})"
    return ""


def _in_a_row(recent: tuple[bool, ...]) -> int:
    return sum(1 for _ in takewhile(bool, reversed(recent)))


def _log(norm: float) -> float:
    return math.log(max(norm, 1e-30))  # a gradient of exactly 0 is no reason to fail


def _from_state(state: dict[str, Any]) -> Memory:
    return Memory(
        losses=tuple(state["losses"]),
        log_norms=tuple(state["log_norms"]),
        recent=tuple(state["recent"]),
        n_roll_backs=state["n_roll_backs"],
        n_skipped=state["n_skipped"],
    )
