"""Distillation from a stored teacher: the k most likely tokens per position, and one tail for all other tokens.

A full teacher distribution takes V numbers per token; only k are stored. The divergence is computed over those k
tokens and the tail. It is never larger than the full divergence (merging outcomes loses information), and equals
it if the tail is empty. Without the tail, the student would learn that it has probability 0 (Anshumann et al.,
2503.16870).

The temperature is fixed when the teacher is stored, since it cannot be applied to a tail afterwards.

Letters: N tokens, V vocabulary, K stored tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.preferences.odds_ratio import log1mexp
from modelstack.reasoning.losses.distillation import generalised_jsd
from modelstack.reasoning.losses.rollouts import PolicyLoss


@dataclass(frozen=True, slots=True)
class TopK:
    """Stored part of a teacher's distributions."""

    token_ids_NK: Tensor
    """Token ids, int64."""
    log_probs_NK: Tensor
    """Log-probabilities, fp32, in the full distribution: their mass is below 1, and the tail has the rest."""
    temperature: float = 1.0
    """Divisor of the teacher's logits."""


def top_k_of(teacher_NV: Tensor, k: int, temperature: float = 1.0) -> TopK:
    """Return the k most likely tokens of each row of logits.

    Raises:
        UserError: k is outside 1 to V, or the temperature is not above 0.
    """
    if not 1 <= k <= teacher_NV.shape[-1]:
        raise UserError(f"k is {k}; it must be from 1 to the vocabulary size {teacher_NV.shape[-1]}")
    if temperature <= 0:
        raise UserError(f"temperature is {temperature}; it divides logits, so it must be above 0")
    exact = torch.promote_types(teacher_NV.dtype, torch.float32)
    log_probs_NV = torch.log_softmax(teacher_NV.detach().to(exact) / temperature, dim=-1)
    log_probs_NK, token_ids_NK = log_probs_NV.topk(k, dim=-1)
    return TopK(token_ids_NK, log_probs_NK, temperature)


def top_k_distillation_loss(
    student_NV: Tensor, teacher: TopK, beta: float = 0.0, n_labels: Tensor | float | None = None
) -> PolicyLoss:
    """Return the mean divergence per token over K tokens and a tail.

    Args:
        student_NV: Logits of the student, with gradient.
        teacher: Stored distributions of the same tokens.
        beta: Weight of the mixture in `distillation`; 0 is KL(teacher, student).
        n_labels: Number of labelled tokens in the optimizer step; None: the number in this call.
    """
    exact = torch.promote_types(student_NV.dtype, torch.float32)
    log_student_NV = torch.log_softmax(student_NV.to(exact) / teacher.temperature, dim=-1)
    student_NK = log_student_NV.gather(-1, teacher.token_ids_NK)
    teacher_NK = teacher.log_probs_NK.to(exact)
    loss_N = generalised_jsd(_with_tail(student_NK), _with_tail(teacher_NK), beta)
    metrics = {"tail_mass": -torch.expm1(teacher_NK.logsumexp(-1)).mean()}
    return PolicyLoss(loss_N.sum() / (max(len(loss_N), 1) if n_labels is None else n_labels), metrics)


def _with_tail(log_probs_NK: Tensor) -> Tensor:
    """Return log-probabilities with the tail as a last column, [N, K + 1]."""
    return torch.cat((log_probs_NK, log1mexp(log_probs_NK.logsumexp(-1, keepdim=True))), dim=-1)
