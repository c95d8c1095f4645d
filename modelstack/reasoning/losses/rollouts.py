"""Inputs and outputs of the losses on sampled completions.

Letters: B completions, T tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Batch of sampled completions. Values where the mask is False have no influence and may be NaN."""

    log_probs_BT: Tensor
    """Log-probabilities under the policy in training, with gradient."""
    mask_BT: Tensor
    """bool; True for tokens that the policy chose, False for prompts, padding, tokens after the end and tool
    output."""
    advantages: Tensor
    """Advantages, [B], or [B, T] with one per token."""
    old_log_probs_BT: Tensor | None = None
    """Log-probabilities under the policy at sampling time, computed by the trainer; None: the policy has not
    changed since."""
    ref_log_probs_BT: Tensor | None = None
    """Log-probabilities under the frozen reference; required by a KL term."""
    correction: Tensor | None = None
    """Weights of tokens [B, T] or completions [B, 1] for a separate sampling engine, see `sampler_correction`;
    None: 1."""
    entropy_BT: Tensor | None = None
    """Entropies in nats; used for metrics only."""


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Divisors of an optimizer step, summed over all its micro-batches and ranks."""

    n_tokens: Tensor | float
    """Number of True positions in the masks."""
    n_sequences: Tensor | float


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Loss and metrics of a micro-batch."""

    loss: Tensor
    """Scalar with gradient. With `StepTotals` it is this micro-batch's share, and the shares of a step add up."""
    metrics: dict[str, Tensor]
    """Scalars without gradient, with TRL's names."""
