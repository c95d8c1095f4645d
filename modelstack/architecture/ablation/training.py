"""A training run at a small budget: AdamW, warm-up, linear decay to zero, clipped gradients.

All choices get the same bytes in the same order, the same steps, the same learning rate and, for parameters of the
same name, the same initial weights. Two runs of one seed therefore differ only in the decision. A learning rate
tuned for the base favours the base: the gain of a choice at its own best learning rate is not measured.

Letters: B rows, T bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from modelstack.architecture.ablation.text import Text
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.architecture.losses import next_token_labels, total_loss
from modelstack.architecture.moe.balancing import BiasBalancer, balancer_of

MAX_GRADIENT_NORM = 1.0
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
WARMUP_SHARE = 0.1
N_HELD_OUT_ROWS = 64
EVALUATIONS = 10
"""Number of held-out evaluations per run, for the curves."""


class Budget(BaseModel, frozen=True, extra="forbid"):
    """Budget of every run."""

    steps: int = Field(default=160, gt=0)
    rows: int = Field(default=8, gt=0)
    length: int = Field(default=256, gt=1)
    """Bytes per row."""
    learning_rate: float = Field(default=3e-3, gt=0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a run."""

    bits_per_byte: float
    """Held-out bits per byte after the last step."""
    curve: tuple[tuple[int, float], ...]
    """Held-out bits per byte by step."""
    seconds: float
    """Seconds of the training steps, without evaluations."""
    diverged: bool


def train(
    config: ModelConfig, text: Text, budget: Budget, seed: int, on_step: Callable[[int], None] = lambda step: None
) -> Outcome:
    """Train a model of `config` and return its result; a loss that is not finite ends the run."""
    model = initialise(CausalLM(config), seed).train()
    optimizer = torch.optim.AdamW(_parameter_groups(model), lr=budget.learning_rate, betas=BETAS)
    balancer = balancer_of(model)
    held_out = text.held_out_batch(N_HELD_OUT_ROWS, budget.length)
    every = max(1, budget.steps // EVALUATIONS)
    curve: list[tuple[int, float]] = []
    seconds = 0.0
    for step in range(budget.steps):
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate * schedule(step, budget.steps)
        loss = _step(model, optimizer, balancer, text.batch(seed, step, budget.rows, budget.length))
        seconds += time.perf_counter() - started
        if not math.isfinite(loss):
            return Outcome(math.nan, tuple(curve), seconds, diverged=True)
        if (step + 1) % every == 0 or step + 1 == budget.steps:
            curve.append((step + 1, bits_per_byte(model, held_out)))
        on_step(step + 1)
    return Outcome(curve[-1][1], tuple(curve), seconds, diverged=not math.isfinite(curve[-1][1]))


def schedule(step: int, n_steps: int) -> float:
    """Return the factor on the learning rate: linear warm-up over a tenth of the run, then linear decay to 0."""
    warmup = max(1, round(WARMUP_SHARE * n_steps))
    return (step + 1) / warmup if step < warmup else (n_steps - step) / (n_steps - warmup)


@torch.no_grad()
def bits_per_byte(model: CausalLM, ids_BT: Tensor, rows: int = 8) -> float:
    """Return the model's mean bits per byte, without the first byte of each row."""
    model.eval()
    nats = [
        torch.nn.functional.cross_entropy(
            model(part).logits_BTV[:, :-1].flatten(0, 1).float(), part[:, 1:].flatten()
        ).item()
        * len(part)
        for part in ids_BT.split(rows)
    ]
    model.train()
    return sum(nats) / len(ids_BT) / math.log(2)


def _step(
    model: CausalLM, optimizer: torch.optim.Optimizer, balancer: BiasBalancer | None, ids_BT: Tensor
) -> float:
    output = model(ids_BT, with_logits=False)  # the loss computes logits in chunks
    loss = total_loss(model, output, next_token_labels(ids_BT)).total
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    if balancer is not None:
        balancer.count(output.routing)
        balancer.update()
    return loss.item()


def _parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Return two groups: matrices with weight decay; norms and biases without."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
