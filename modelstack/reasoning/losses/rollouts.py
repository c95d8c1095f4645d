"""What losses on sampled completions read, and what they give back.

Letters: B completions, T tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Some sampled completions. What lies where the mask is False has no influence and may be NaN."""

    log_probs_BT: Tensor
    """Of the policy that is trained, with gradient."""
    mask_BT: Tensor
    """bool: tokens that the policy chose. False for prompts, padding, what comes behind the end, tools' output."""
    advantages: Tensor
    """[B], or [B, T] where each token has its own."""
    old_log_probs_BT: Tensor | None = None
    """Of the policy as it was when it sampled, computed as the trained one's; None: it has not moved since."""
    ref_log_probs_BT: Tensor | None = None
    """Of the frozen reference; needed for a KL term."""
    correction: Tensor | None = None
    """How much tokens [B, T] or completions [B, 1] count because another engine sampled them, see
    `sampler_correction`; None: 1."""
    entropy_BT: Tensor | None = None
    """Nats, only looked at."""


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Of all micro-batches and ranks of an optimizer step: what sums are divided by."""

    n_tokens: Tensor | float
    """Where masks are True."""
    n_sequences: Tensor | float


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """What is minimised, and what is looked at."""

    loss: Tensor
    """A scalar with gradient; with `StepTotals`, this micro-batch's share: those of a step add up."""
    metrics: dict[str, Tensor]
    """Scalars without gradient, by TRL's names."""
