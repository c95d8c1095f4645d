"""Surprise of a model at each label, from its logits: -log p(label) and the softmax's normaliser.

Autograd over `F.cross_entropy` keeps the logits in fp32, their log-softmax and the gradient of each: four tensors
of N * V numbers, each of which passes through memory. Here only the logits are kept, in the type of the head's
output. Their softmax is recomputed for the gradient in chunks of rows, so intermediate results stay in the
processor's cache.

Letters: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

IGNORED = -100
"""Label that all losses ignore; torch's and transformers' value."""
_NUMBERS_AT_ONCE = 2**19
"""Maximum numbers per chunk: 2 MB in fp32."""


def surprise_and_normaliser(logits_NV: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return -log p(label) and logsumexp(logits) of each token, fp32 [N]; both 0 if the label is `IGNORED`.

    Args:
        logits_NV: Logits of any floating type; the softmax is computed in fp32.
        labels_N: Labels, int64.
    """
    if logits_NV.device.type == "cpu" and type(logits_NV) is Tensor and torch.is_grad_enabled():
        surprise, normaliser = _Surprise.apply(logits_NV, labels_N)
        return surprise, normaliser
    logits_NV = logits_NV.float()
    surprise = F.cross_entropy(logits_NV, labels_N, ignore_index=IGNORED, reduction="none")
    # The normaliser follows from two numbers of the label, without a second pass over the vocabulary.
    is_labelled = labels_N != IGNORED
    named = logits_NV.gather(1, labels_N.where(is_labelled, 0)[:, None])[:, 0]
    return surprise, torch.where(is_labelled, named + surprise, 0.0)


class _Surprise(torch.autograd.Function):
    """Surprise and normaliser with explicit gradients.

    For p = softmax(logits): d surprise = p - onehot(label), d normaliser = p.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        is_labelled = labels != IGNORED
        places = labels.where(is_labelled, 0)[:, None]
        surprise = torch.empty(len(logits))
        for rows in _chunks(logits):
            log_p = torch.log_softmax(logits[rows], dim=-1, dtype=torch.float32)
            surprise[rows] = -log_p.gather(1, places[rows])[:, 0]
        surprise.mul_(is_labelled)
        normaliser = logits.gather(1, places)[:, 0].float().add_(surprise).mul_(is_labelled)
        ctx.save_for_backward(logits, places, is_labelled)
        return surprise, normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, places, is_labelled = ctx.saved_tensors
        g_surprise, g_normaliser = (g * is_labelled for g in gradients)
        of_p, of_label = (g_surprise + g_normaliser)[:, None], -g_surprise[:, None]
        d_logits = torch.empty_like(logits)
        for rows in _chunks(logits):
            p = torch.softmax(logits[rows], dim=-1, dtype=torch.float32)
            d_logits[rows] = p.mul_(of_p[rows]).scatter_add_(1, places[rows], of_label[rows])
        return d_logits, None


def _chunks(logits: Tensor) -> Iterator[slice]:
    step = max(1, _NUMBERS_AT_ONCE // logits.shape[1])
    return (slice(start, start + step) for start in range(0, len(logits), step))
