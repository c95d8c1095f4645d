"""Other projects' rules against loss spikes on the same loop: OLMo-core's skip-step rule, PaLM's manual procedure.

OLMo-core (allenai/OLMo-core, `optim/skip_step_optimizer.py` and `optim/adamw.py`): a window of the last 128 losses
and gradient norms. From 64 values on, a step whose loss or norm is more than 6 standard deviations above the
window's mean gets a factor of 0, all others 1. The update and the changes of the moments are multiplied by the
factor. Rejected values stay in the window. Reimplemented here from that rule.

PaLM (arXiv 2204.02311, 5.1): after a spike, restart from a checkpoint about 100 steps earlier and skip 200 to 500
batches. That is for runs of 255,000 steps; a run of 400 gets a tenth: a checkpoint every 10 steps, the newest that
is at least 10 steps old at the spike, and 35 batches skipped from there. The simulated person detects a loss that
is not finite, or above 1.3 times the median of the last 32, immediately; a real person takes hours.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evals.speed.byte_runs import ByteRows
from modelstack.data.batches import Batch
from modelstack.stability.fault_injection import Ledger
from modelstack.stability.faults import Faults
from modelstack.train.loop import Run
from modelstack.train.step import StepReport

WINDOW, SIGMAS = 128, 6.0
"""Defaults of OLMo-core; the rule is active after half a window."""
PALM_EVERY = 10
PALM_BACK = 10
PALM_SKIP = 35
PALM_RISE = 1.3
PALM_WINDOW = 32


def olmo_factor(losses: Sequence[float], norms: Sequence[float]) -> float:
    """Return 1 if the last loss and norm are both at most 6 sigma above the mean of the values before, else 0."""
    if len(losses) < max(2, WINDOW // 2):
        return 1.0
    return float(all(_is_within(torch.tensor(values, dtype=torch.float32)) for values in (losses, norms)))


def _is_within(values: Tensor) -> bool:
    std, mean = torch.std_mean(values[:-1])
    return bool(values[-1] - mean <= SIGMAS * std)  # False if any value is NaN


class SkipStepAdamW(torch.optim.Optimizer):
    """AdamW whose update is multiplied by a factor of 0 or 1."""

    def __init__(
        self, parameters: Any, *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8
    ) -> None:
        """Create the optimizer with factor 1."""
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.factor = 1.0
        for group in self.param_groups:
            for p in group["params"]:
                zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self.state[p] = {"step": torch.zeros(()), **zeros}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Take a step; no branch depends on the factor, so that there is no wait for a GPU."""
        factor = torch.tensor(self.factor)
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state["step"] += factor
                p.mul_(1 - factor * group["lr"] * group["weight_decay"])
                state["exp_avg"].lerp_(p.grad, factor * (1 - beta1))
                state["exp_avg_sq"].mul_(1 - factor * (1 - beta2))
                state["exp_avg_sq"].add_(factor * (1 - beta2) * p.grad * p.grad)
                taken = state["step"].clamp(min=1)
                scale = group["lr"] / (1 - beta1**taken)
                denominator = (state["exp_avg_sq"].sqrt() / (1 - beta2**taken).sqrt()).add_(group["eps"])
                p.add_(-scale * factor * (state["exp_avg"] / denominator))


@dataclass(slots=True)
class OlmoRule:
    """Supervisor that sets the optimizer's factor; the loop sees every step as taken."""

    optimizer: SkipStepAdamW | None
    """The optimizer; None only counts alarms."""
    losses: list[float] = field(default_factory=list[float])
    norms: list[float] = field(default_factory=list[float])
    skipped: list[int] = field(default_factory=list[int])
    n_judged: int = 0

    def judge(self, loss: float, norm: float) -> str:
        """Set the factor and return "", because the step itself is not rejected."""
        self.losses = [*self.losses, loss][-WINDOW - 1 :]
        self.norms = [*self.norms, norm][-WINDOW - 1 :]
        factor = olmo_factor(self.losses, self.norms)
        if factor == 0:
            self.skipped.append(self.n_judged)
        if self.optimizer is not None:
            self.optimizer.factor = factor
        self.n_judged += 1
        return ""

    def after_step(self, run: Run, report: StepReport, batches: Sequence[Batch]) -> None:
        """Do nothing."""


@dataclass(slots=True)
class PalmRule:
    """Supervisor that simulates a person who watches every loss."""

    loader: ByteRows
    faults: Faults
    ledger: Ledger
    losses: list[float] = field(default_factory=list[float])
    restarts: list[int] = field(default_factory=list[int])
    """Steps at which a spike was detected."""
    n_undone: int = 0
    n_passed_over: int = 0
    """Number of batches skipped without training on them."""
    _checkpoints: list[tuple[int, dict[str, Any]]] = field(default_factory=list[tuple[int, dict[str, Any]]])

    def judge(self, loss: float, norm: float) -> str:
        """Return "", because a spike is only detected after the step."""
        return ""

    def after_step(self, run: Run, report: StepReport, batches: Sequence[Batch]) -> None:
        """Store checkpoints; after a spike, restart from an earlier one and skip batches."""
        loss = report.losses["total"]
        if self._is_spike(loss):
            self._restart(run, report.step)
            return
        self.losses = [*self.losses, loss][-PALM_WINDOW:]
        if run.state.step % PALM_EVERY == 0:
            self._checkpoints.append((run.state.step, copy.deepcopy(run.state.state_dict())))
            self._checkpoints = self._checkpoints[-4:]

    def _is_spike(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        return len(self.losses) == PALM_WINDOW and loss > PALM_RISE * statistics.median(self.losses)

    def _restart(self, run: Run, step: int) -> None:
        old = [(at, state) for at, state in self._checkpoints if at <= step - PALM_BACK]
        if not old:
            return
        at, state = old[-1]
        self.restarts.append(step)
        self.n_undone += step + 1 - at
        self._checkpoints = old
        run.state.load_state_dict(copy.deepcopy(state))
        n_skipped = max(0, at + PALM_SKIP - step - 1)
        self.n_passed_over += n_skipped
        self.loader.position += n_skipped * self.loader.rows * self.loader.world
        for fault in self.faults.schedule:
            # A window of bad data may lie among the skipped batches; the schedule identifies it by its steps.
            for bad in range(fault.step, step + PALM_SKIP):
                self.ledger.begins(fault, bad)
