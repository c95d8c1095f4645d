"""Distillation: train a student towards a teacher's distribution over the vocabulary.

Generalised Jensen-Shannon divergence (GKD, Agarwal et al., 2306.13649 equation 1): with the mixture m = beta t +
(1 - beta) s it is beta KL(t, m) + (1 - beta) KL(s, m). beta = 0 is KL(t, s), which covers all modes of the
teacher; beta = 1 is KL(s, t), which seeks its largest mode. Classic distillation: Hinton et al., 1503.02531,
with a factor T^2 that keeps the scale of the gradients when the temperature rises. On tokens sampled by the
student this is on-policy distillation.

The caller selects the N rows of labelled tokens from [B, T, V], so the head computes no other logits.

Letters: N tokens, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from modelstack.reasoning.losses.rollouts import PolicyLoss


class DistillationConfig(BaseModel):
    """Settings of the generalised divergence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["generalised_jsd"] = "generalised_jsd"
    beta: float = Field(default=0.5, ge=0, le=1)
    """0: KL(teacher, student); 1: KL(student, teacher); TRL's GKD has 0.5."""
    temperature: float = Field(default=1.0, gt=0)
    """Divisor of both models' logits; 1 in the paper, 0.9 in TRL's GKD."""


class ClassicDistillationConfig(BaseModel):
    """Settings of classic distillation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["classic"] = "classic"
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the teacher's divergence; the rest is cross-entropy with the labels."""
    temperature: float = Field(default=2.0, gt=0)
    """Temperature of both distributions."""


def distillation_loss(
    student_NV: Tensor,
    teacher_NV: Tensor,
    config: DistillationConfig | None = None,
    n_labels: Tensor | float | None = None,
) -> PolicyLoss:
    """Return the mean divergence per token.

    Args:
        student_NV: Logits of the student, with gradient.
        teacher_NV: Logits of the teacher.
        config: Settings; None: the defaults.
        n_labels: Number of labelled tokens in the optimizer step; None: the number in this call.
    """
    config = config or DistillationConfig()
    log_s, log_t = _log_p(student_NV, config.temperature), _log_p(teacher_NV.detach(), config.temperature)
    sums = generalised_jsd(log_s, log_t, config.beta)
    entropy = -(log_s.detach().exp() * log_s.detach()).sum(-1)
    return _mean(sums, n_labels, {"entropy": entropy.mean(), "agreement": _agreement(log_s, log_t)})


def classic_distillation_loss(
    student_NV: Tensor,
    teacher_NV: Tensor,
    labels_N: Tensor,
    config: ClassicDistillationConfig | None = None,
    n_labels: Tensor | float | None = None,
) -> PolicyLoss:
    """Return alpha T^2 KL(teacher, student) at temperature T + (1 - alpha) cross-entropy, as a mean over tokens.

    Args:
        student_NV: Logits of the student, with gradient.
        teacher_NV: Logits of the teacher.
        labels_N: Token ids, int64.
        config: Settings; None: the defaults.
        n_labels: Number of labelled tokens in the optimizer step; None: the number in this call.
    """
    config = config or ClassicDistillationConfig()
    T = config.temperature
    log_s, log_t = _log_p(student_NV, T), _log_p(teacher_NV.detach(), T)
    kl_N = generalised_jsd(log_s, log_t, beta=0.0)
    surprise_N = F.nll_loss(_log_p(student_NV, 1.0), labels_N, reduction="none")
    loss_N = config.alpha * T**2 * kl_N + (1 - config.alpha) * surprise_N
    metrics = {"kl": kl_N.mean(), "cross_entropy": surprise_N.mean(), "agreement": _agreement(log_s, log_t)}
    return _mean(loss_N, n_labels, metrics)


def generalised_jsd(log_student: Tensor, log_teacher: Tensor, beta: float) -> Tensor:
    """Return the divergence between distributions over the last dimension, in nats.

    Args:
        log_student: Log-probabilities of the student; -inf for a token with probability 0.
        log_teacher: Log-probabilities of the teacher.
        beta: Weight of the teacher in the mixture, see the module.
    """
    if beta == 0:
        return _kl(log_teacher, log_student)
    if beta == 1:
        return _kl(log_student, log_teacher)
    log_m = torch.logaddexp(log_student + math.log1p(-beta), log_teacher + math.log(beta))
    return beta * _kl(log_teacher, log_m) + (1 - beta) * _kl(log_student, log_m)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def _log_p(logits: Tensor, temperature: float) -> Tensor:
    exact = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits.to(exact) / temperature, dim=-1)


def _agreement(log_s: Tensor, log_t: Tensor) -> Tensor:
    """Return the share of tokens on which both models have the same most likely token."""
    return (log_s.argmax(-1) == log_t.argmax(-1)).float().mean()


def _mean(loss_N: Tensor, n_labels: Tensor | float | None, metrics: dict[str, Tensor]) -> PolicyLoss:
    divisor = max(len(loss_N), 1) if n_labels is None else n_labels
    return PolicyLoss(loss_N.sum() / divisor, {name: value.detach() for name, value in metrics.items()})
