"""A training step: losses and gradients of the micro-batches, a verdict, and only then the optimizer.

The verdict comes before any change: a rejected step leaves weights, moments, biases and the learning-rate schedule
as they were. All inputs of a step are arguments, and all that it changes is in `TrainState`. Printing, saving and
plotting are the task of hooks.

Letters: B rows, T tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from modelstack.architecture.attention.compressed import IndexStage, set_index_stage
from modelstack.architecture.attention.indexer_loss import indexer_parameters
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED, TokenLoss
from modelstack.architecture.moe.balancing import balancer_of
from modelstack.data.batches import Batch
from modelstack.errors import UserError, first_difference
from modelstack.train.passes import LocalPasses, Passes
from modelstack.train.precision import Fp32Masters

Judge = Callable[[float, float], str]
"""Map loss and gradient norm to "" (take the step) or the reason to reject it."""


@dataclass(slots=True)
class TrainState:
    """The state that training changes."""

    model: nn.Module
    """The model, or this rank's part of it; its state dict is stored in checkpoints."""
    optimizer: torch.optim.Optimizer | Fp32Masters
    passes: Passes
    step: int = 0
    """Number of batches consumed, including those of rejected steps, so schedule and data stay in sync."""
    n_tokens: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as nested plain data and tensors."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "n_tokens": self.n_tokens,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        Raises:
            UserError: The state belongs to another model or optimizer.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = first_difference(error)
            raise UserError(
                f"the checkpoint is of another model or optimizer; train into another folder: {reason}"
            ) from error
        self.step, self.n_tokens = state["step"], state["n_tokens"]


def local_state(
    model: CausalLM,
    optimizer: torch.optim.Optimizer | Fp32Masters,
    *,
    token_loss: TokenLoss = "cross_entropy",
) -> TrainState:
    """Return the state of a model on one device; balancing biases are updated if the model has them."""
    return TrainState(model, optimizer, LocalPasses(model, balancer_of(model), token_loss))


@dataclass(frozen=True, slots=True)
class StepReport:
    """Result of a step."""

    step: int
    """Number of batches consumed before the step."""
    losses: dict[str, float] = field(default_factory=dict)
    """Losses by part, coefficients applied; "total" is their sum."""
    gradient_norm: float = math.nan
    """Gradient norm before clipping."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates of the optimizer's groups."""
    n_tokens: int = 0
    seconds: float = 0.0
    rejected: str = ""
    """Reason for a rejected step; empty for a taken one."""


def always(loss: float, norm: float) -> str:
    """Accept every step, for benchmarks and comparisons."""
    return ""


def train_step(
    state: TrainState,
    batches: Sequence[Batch],
    *,
    lr_factor: float = 1.0,
    max_norm: float = math.inf,
    judge: Judge = always,
    index_stage: IndexStage = "sparse",
) -> StepReport:
    """Take one optimizer step on micro-batches, unless `judge` rejects it.

    Gradients of micro-batches add up to that of one large batch: sums over tokens are divided by the number of
    labelled tokens of all of them, or by the sum of their weights.

    Args:
        state: The state, changed in place.
        batches: Micro-batches of this rank, at least one.
        lr_factor: Factor on each group's own learning rate (`initial_lr`, set at the first step).
        max_norm: Maximum gradient norm; larger gradients are scaled down.
        judge: Receives loss and gradient norm before the optimizer step.
        index_stage: Stage of lightning indexers in this step; in a warm-up only indexers are updated.

    Raises:
        UserError: There is no batch, or none of the tokens has a label with weight.
    """
    started = time.perf_counter()
    passes = state.passes
    n_labels = passes.total(count_labels(batches))
    if n_labels == 0:
        raise UserError(
            f"step {state.step}: no token of {len(batches)} batches has a label with weight; check the labels"
        )
    set_index_stage(state.model, index_stage)
    losses = passes.backward(batches, n_labels)
    judged = judged_loss(losses)
    losses["total"] = sum(losses.values())
    norm = passes.clip(max_norm)
    is_frozen = index_stage == "warm_up"
    if is_frozen:
        _keep_gradients(state.model, indexer_parameters(state.model))
    rejected = judge(judged, norm)
    rates = _set_rates(state.optimizer, lr_factor)
    if not rejected:
        state.optimizer.step()
    passes.settle(taken=not rejected and not is_frozen)
    state.optimizer.zero_grad(set_to_none=True)
    n_tokens = int(passes.total(sum(batch.n_tokens for batch in batches)))
    report = StepReport(state.step, losses, norm, rates, n_tokens, time.perf_counter() - started, rejected)
    state.step += 1
    state.n_tokens += n_tokens
    return report


def judged_loss(losses: Mapping[str, float]) -> float:
    """Return the loss that a guard judges, from the parts of a step's loss.

    It is the model's loss without the indexers' loss, which starts only with the warm-up. If the indexers' loss is
    not finite, it is returned instead.
    """
    of_indexers = losses.get("indexer_loss", 0.0)
    if not math.isfinite(of_indexers):
        return of_indexers
    return sum(loss for name, loss in losses.items() if name != "indexer_loss")


def count_labels(batches: Sequence[Batch]) -> float:
    """Return the number of labelled tokens of this rank's micro-batches, or the sum of their weights."""
    return sum(_labels_of(batch) for batch in batches)


def _labels_of(batch: Batch) -> float:
    is_labelled = batch.labels_BT != IGNORED
    if batch.weights_BT is None:
        return int(is_labelled.sum())
    return float(batch.weights_BT.where(is_labelled, 0).sum(dtype=torch.float64))


def _keep_gradients(model: nn.Module, kept: Sequence[nn.Parameter]) -> None:
    """Remove all other gradients, so that the optimizer leaves their parameters unchanged.

    Without a gradient there is no weight decay either. The backward pass was still run for these parameters.
    Freezing them instead would leave sharded blocks without an output that has a gradient, and thus without their
    gathered weights in the backward pass.
    """
    apart = set(kept)
    for parameter in model.parameters():
        if parameter not in apart:
            parameter.grad = None


def _set_rates(optimizer: torch.optim.Optimizer | Fp32Masters, factor: float) -> tuple[float, ...]:
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor
    return tuple(group["lr"] for group in optimizer.param_groups)
