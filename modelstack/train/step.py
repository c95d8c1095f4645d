"""One training step: losses and gradients of some micro-batches, a verdict, and only then the optimizer.

The verdict comes before anything moves: a rejected step leaves weights, moments, biases and the learning-rate
schedule as they were (DESIGN, "a training batch"). Everything that a step needs is an argument, everything that
it changes is in `TrainState`; what is printed, saved or plotted is somebody else's (hooks).

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
from modelstack.errors import UserError
from modelstack.train.passes import LocalPasses, Passes
from modelstack.train.precision import Fp32Masters

Judge = Callable[[float, float], str]
"""Loss and gradient norm to "" (go) or the reason why the step must not be taken."""


@dataclass(slots=True)
class TrainState:
    """What training changes."""

    model: nn.Module
    """This rank's share of it where it is spread; its state dict is what checkpoints hold."""
    optimizer: torch.optim.Optimizer | Fp32Masters
    passes: Passes
    step: int = 0
    """Batches consumed, rejected ones included: the schedule and the data go on together."""
    n_tokens: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as nested plain data and tensors."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "n_tokens": self.n_tokens,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a state.

        Raises:
            UserError: It is of another model.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"the checkpoint is of another model or optimizer: {error}") from error
        self.step, self.n_tokens = state["step"], state["n_tokens"]


def local_state(
    model: CausalLM,
    optimizer: torch.optim.Optimizer | Fp32Masters,
    *,
    token_loss: TokenLoss = "cross_entropy",
) -> TrainState:
    """Return the state of a model that lies on one device; one with balancing biases gets them moved."""
    return TrainState(model, optimizer, LocalPasses(model, balancer_of(model), token_loss))


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step came to."""

    step: int
    """Batches consumed before it."""
    losses: dict[str, float] = field(default_factory=dict)
    """By part, coefficients applied; "total" is their sum."""
    gradient_norm: float = math.nan
    """Before clipping."""
    learning_rates: tuple[float, ...] = ()
    """Of the optimizer's groups."""
    n_tokens: int = 0
    seconds: float = 0.0
    rejected: str = ""
    """Why the step was not taken; empty where it was."""


def always(loss: float, norm: float) -> str:
    """Take every step: for benchmarks and comparisons."""
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
    """Take one optimizer step on some micro-batches, or none where `judge` objects.

    Gradients of micro-batches add up to that of one large batch: sums over tokens are divided by the labelled
    tokens of all of them, or by the sum of their weights.

    Args:
        state: Is changed.
        batches: Micro-batches of this rank, at least one.
        lr_factor: Share of each group's own learning rate (`initial_lr`, set at the first step).
        max_norm: Gradients are scaled down to it.
        judge: Sees loss and gradient norm before the optimizer does.
        index_stage: What lightning indexers do in this step; in a warm-up nothing moves but they.

    Raises:
        UserError: There is no batch, or none of its tokens has a label that counts.
    """
    started = time.perf_counter()
    passes = state.passes
    n_labels = passes.total(count_labels(batches))
    if n_labels == 0:
        raise UserError(
            f"step {state.step}: no token of {len(batches)} batches has a label that counts; nothing can be learnt"
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
    """Return the loss that a guard judges, of the parts of a step's loss.

    That is the model's, without the indexers', which comes in where a warm-up begins; or, where theirs is not
    finite, theirs.
    """
    of_indexers = losses.get("indexer_loss", 0.0)
    if not math.isfinite(of_indexers):
        return of_indexers
    return sum(loss for name, loss in losses.items() if name != "indexer_loss")


def count_labels(batches: Sequence[Batch]) -> float:
    """Return the labelled tokens of this rank's micro-batches, or the sum of their weights."""
    return sum(_labels_of(batch) for batch in batches)


def _labels_of(batch: Batch) -> float:
    is_labelled = batch.labels_BT != IGNORED
    if batch.weights_BT is None:
        return int(is_labelled.sum())
    return float(batch.weights_BT.where(is_labelled, 0).sum(dtype=torch.float64))


def _keep_gradients(model: nn.Module, kept: Sequence[nn.Parameter]) -> None:
    """Drop all other gradients: what an optimizer has no gradient of stays as it is, weight decay included.

    The whole backward pass was run for them. Freezing parameters instead would leave sharded blocks without an
    output that has a gradient, and so without their weights in the backward pass.
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
