"""Distillation from a stored teacher: the k likeliest tokens of each place, and the mass of all others as one.

A teacher's whole distribution is V numbers a token; stored are k, and the divergence is that of the distributions
over those k tokens and "another". It is never more than the whole one (to merge outcomes loses information) and
becomes it where the tail is empty. Without the tail a student would be taught that it is (Anshumann et al.,
2503.16870).

The temperature is fixed when the teacher is stored: a tail cannot be heated afterwards.

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
    """What is kept of a teacher's distributions."""

    token_ids_NK: Tensor
    """int64."""
    log_probs_NK: Tensor
    """fp32, of the whole distribution: their mass is below 1, the rest is the tail's."""
    temperature: float = 1.0
    """What the teacher's logits were divided by."""


def top_k_of(teacher_NV: Tensor, k: int, temperature: float = 1.0) -> TopK:
    """Return the k likeliest tokens of each row of logits.

    Raises:
        UserError: k is not from 1 to V, or the temperature is not above 0.
    """
    if not 1 <= k <= teacher_NV.shape[-1]:
        raise UserError(f"k is {k}; it must be from 1 to the vocabulary's {teacher_NV.shape[-1]}")
    if temperature <= 0:
        raise UserError(f"temperature is {temperature}; it divides logits: give one above 0")
    exact = torch.promote_types(teacher_NV.dtype, torch.float32)
    log_probs_NV = torch.log_softmax(teacher_NV.detach().to(exact) / temperature, dim=-1)
    log_probs_NK, token_ids_NK = log_probs_NV.topk(k, dim=-1)
    return TopK(token_ids_NK, log_probs_NK, temperature)


def top_k_distillation_loss(
    student_NV: Tensor, teacher: TopK, beta: float = 0.0, n_labels: Tensor | float | None = None
) -> PolicyLoss:
    """Return the divergence over K tokens and a tail, as a mean over tokens.

    Args:
        student_NV: Logits, with gradient.
        teacher: Of the same tokens.
        beta: As in `distillation`: 0 is KL(teacher, student).
        n_labels: Labelled tokens of the optimizer step; None: those of this call.
    """
    exact = torch.promote_types(student_NV.dtype, torch.float32)
    log_student_NV = torch.log_softmax(student_NV.to(exact) / teacher.temperature, dim=-1)
    student_NK = log_student_NV.gather(-1, teacher.token_ids_NK)
    teacher_NK = teacher.log_probs_NK.to(exact)
    loss_N = generalised_jsd(_with_tail(student_NK), _with_tail(teacher_NK), beta)
    metrics = {"tail_mass": -torch.expm1(teacher_NK.logsumexp(-1)).mean()}
    return PolicyLoss(loss_N.sum() / (max(len(loss_N), 1) if n_labels is None else n_labels), metrics)


def _with_tail(log_probs_NK: Tensor) -> Tensor:
    """Return log-probabilities with that of all other tokens as a last column, [N, K + 1]."""
    return torch.cat((log_probs_NK, log1mexp(log_probs_NK.logsumexp(-1, keepdim=True))), dim=-1)
