"""Guard against bad steps: decides before the optimizer, equally on all ranks, whether a step is taken.

A step is skipped if its loss or gradient norm is not finite, or far above the recent values. Multiplying the
update by 0 instead would let NaN through (NaN * 0 = NaN: with OLMo-core's rule one NaN gradient leaves NaN
weights). The threshold is robust: median + k * MAD of the accepted values. A mean and a standard deviation would
be widened by the first spike, so that the second passes, and one NaN would invalidate them for the whole window.
Rejected values never enter the window.

One bad batch is skipped. Several in a row may mean that the state itself is damaged: then the run returns to a
checkpoint and continues after the data that led there (PaLM, arXiv 2204.02311, 5.1: the same batches from an
earlier state did not spike). If several roll-backs do not help, the run stops and saves the batch. Several
rejected steps may also mean a window of bad data, which no rejected step let into the weights. `is_sound`
distinguishes the two cases by the loss on an earlier good batch; for bad data no roll-back is needed.

`judge` is a pure function on plain data; `Guard` keeps its memory and communicates with the other ranks.
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
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


class Verdict(IntEnum):
    """Decision on a step; the largest of all ranks applies."""

    GO = 0
    SKIP = 1
    ROLL_BACK = 2
    STOP = 3


class GuardConfig(BaseModel, frozen=True, extra="forbid"):
    """Thresholds of the guard."""

    window: int = Field(default=128, ge=8)
    """Number of accepted steps from which thresholds are computed."""
    warmup: int = Field(default=32, ge=4)
    """Number of accepted steps before thresholds apply; until then only values that are not finite are rejected.
    """
    k: float = Field(default=8.0, gt=0)
    """Threshold in robust standard deviations above the median."""
    min_loss_rise: float = Field(default=0.2, ge=0)
    """Minimum rise of a rejected loss, as a fraction of the median; applies even if the window has little
    variation.
    """
    min_loss_rise_absolute: float = Field(default=0.0, ge=0)
    """Minimum rise of a rejected loss in units of the loss; for losses around 0, where fractions are meaningless.
    """
    min_norm_rise: float = Field(default=3.0, ge=1)
    """Minimum factor of a rejected gradient norm over its median; applies even if the window has little variation.
    """
    skips_in_a_row: int = Field(default=4, ge=1)
    """Number of consecutive rejected steps that count as a damaged state."""
    skips_in_window: int = Field(default=16, ge=1)
    """Number of rejected steps among the last `window` that count as a damaged state."""
    patience: int = Field(default=64, ge=1)
    """Maximum number of consecutive rejected steps that count as bad data if the state is sound; more count as
    damage.
    """
    max_roll_backs: int = Field(default=4, ge=0)
    """Maximum number of roll-backs before the run stops."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the guard; plain data, part of a checkpoint."""

    losses: tuple[float, ...] = ()
    log_norms: tuple[float, ...] = ()
    """Natural logarithms of gradient norms, because norms vary by factors."""
    recent: tuple[bool, ...] = ()
    """Whether each of the last steps was rejected."""
    n_roll_backs: int = 0
    n_skipped: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and its reason."""

    verdict: Verdict
    reason: str
    """Reason of a rejection; empty if the step is accepted."""


def judge(config: GuardConfig, memory: Memory, loss: float, norm: float) -> tuple[Memory, Judgement]:
    """Judge one step.

    Args:
        config: The thresholds.
        memory: Memory of the previous steps.
        loss: Loss of this step, over all micro-batches.
        norm: Gradient norm before clipping.

    Returns:
        The memory including this step, and the judgement.
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
    """Return the memory after a roll-back: thresholds of the restored state, counters of the whole run."""
    return replace(restored, recent=(), n_roll_backs=memory.n_roll_backs + 1, n_skipped=memory.n_skipped)


def threshold(values: tuple[float, ...], k: float) -> float:
    """Return median + k robust standard deviations."""
    middle = statistics.median(values)
    return middle + k * MAD_TO_SIGMA * statistics.median(abs(value - middle) for value in values)


class Guard:
    """The judge with its memory; all ranks agree on the verdict."""

    def __init__(self, config: GuardConfig, worst_of_ranks: Callable[[int], int] = lambda own: own) -> None:
        """Create a guard without memory; for several ranks `worst_of_ranks` is an all-reduce MAX."""
        self.config = config
        self.memory = Memory()
        self._worst_of_ranks = worst_of_ranks

    def judge(self, loss: float, norm: float) -> Judgement:
        """Judge a step by the verdicts of all ranks; each rank must call it at each step."""
        memory, own = judge(self.config, self.memory, loss, norm)
        worst = Verdict(self._worst_of_ranks(int(own.verdict)))
        if worst > own.verdict:
            # Another rank rejects a step that looks sound here: this rank's memory must not accept it.
            recent = (*self.memory.recent, True)[-self.config.window :]
            memory = replace(self.memory, recent=recent, n_skipped=self.memory.n_skipped + 1)
            own = Judgement(worst, "another rank rejected the step")
        self.memory = memory
        return own

    @property
    def is_patient(self) -> bool:
        """Whether steps may still be skipped instead of a roll-back if the state is sound."""
        return _in_a_row(self.memory.recent) < self.config.patience

    def is_sound(self, loss: float, norm: float) -> bool:
        """Return whether an earlier good batch is still acceptable on all ranks; the memory is not changed."""
        return not self._worst_of_ranks(int(bool(_complaint(self.config, self.memory, loss, norm))))

    def roll_back(self, restored: dict[str, Any]) -> None:
        """Continue from a checkpoint's memory, with the run's own counters."""
        self.memory = after_roll_back(self.memory, _from_state(restored))

    def state_dict(self) -> dict[str, Any]:
        """Return the memory as plain data."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.memory).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a memory, so that a resumed run has thresholds at once."""
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
    return math.log(max(norm, 1e-30))  # a gradient of exactly 0 must not fail


def _from_state(state: dict[str, Any]) -> Memory:
    return Memory(
        losses=tuple(state["losses"]),
        log_norms=tuple(state["log_norms"]),
        recent=tuple(state["recent"]),
        n_roll_backs=state["n_roll_backs"],
        n_skipped=state["n_skipped"],
    )
