"""Codes and loss of a training step, by architecture.

- `topk`: the k highest latents of each token (2406.04093).
- `batch_topk`: the k N highest of the whole batch (2412.06410); tokens share the budget.
- `matryoshka`: `batch_topk` whose first latents must rebuild the state alone, for several widths (2503.17547).
- `jumprelu`: all above a learnt threshold of the latent. Its gradient is that of a kernel around the threshold,
  and a second loss holds the number of active latents at k (2407.14435 and its appendix).

The first three choose latents by scores in `precision`, compute the chosen values again in float32, and touch only
these (`codes`). Dead latents rebuild, weakly, what the others leave over (AuxK, 2406.04093).

Letters: N tokens, D and O widths of input and output, F latents, M active pairs, A dead latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelstack.align.sae.autoencoder import Autoencoder
from modelstack.align.sae.codes import Codes, Pattern, above, combination, products, top_latents, top_of_batch
from modelstack.align.sae.sae_recipe import SaeForm


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """Loss of a batch."""

    total: Tensor
    rebuilt: float
    """Mean squared error of the whole dictionary."""
    n_active: float
    """Active latents of a token."""
    is_fired_F: Tensor
    lowest: float | None
    """Lowest active value; None: no latent is active."""


def loss_of(
    autoencoder: Autoencoder, form: SaeForm, x_ND: Tensor, y_NO: Tensor, dead_A: Tensor, bar: float
) -> Loss:
    """Return the loss of a batch.

    Args:
        autoencoder: The autoencoder.
        form: Architecture.
        x_ND: Input, float32.
        y_NO: Wanted output; the input itself but for a transcoder.
        dead_A: Latents that have not fired for long.
        bar: Guess of the lowest active value; see `top_of_batch`.
    """
    if form.kind == "jumprelu":
        return _jump_loss(autoencoder, form, x_ND, y_NO, dead_A)
    bias_F = autoencoder.bias_F()
    with torch.no_grad():
        scores_NF = _scores(autoencoder, x_ND, bias_F, form)
        pattern = top_latents(scores_NF, form.k) if form.kind == "topk" else top_of_batch(scores_NF, form.k, bar)
    values_M = (products(x_ND, autoencoder.encoder_FD, pattern) + bias_F[pattern.latents_M]).relu()
    base_NO = _base(autoencoder, x_ND)
    outputs = _outputs(autoencoder, Codes(pattern, values_M), base_NO, form.widths)
    errors = [(y_NO - each).square().mean() for each in outputs]
    total = torch.stack(errors).mean()
    if len(dead_A):
        total = total + form.dead_weight * _dead_loss(autoencoder, x_ND, y_NO - outputs[-1].detach(), dead_A)
    is_positive_M = values_M.detach() > 0
    positive_M = values_M.detach()[is_positive_M]
    fired_F = pattern.is_fired_F.clone()
    if len(positive_M) < len(values_M):
        fired_F.zero_()
        fired_F[pattern.latents_M[is_positive_M]] = True
    lowest = float(positive_M.min()) if len(positive_M) else None
    return Loss(total, float(errors[-1].detach()), len(positive_M) / len(x_ND), fired_F, lowest)


def _scores(autoencoder: Autoencoder, x_ND: Tensor, bias_F: Tensor, form: SaeForm) -> Tensor:
    dtype = torch.bfloat16 if form.precision == "bf16" else torch.float32
    return torch.addmm(bias_F.to(dtype), x_ND.to(dtype), autoencoder.encoder_FD.to(dtype).T)


def _base(autoencoder: Autoencoder, x_ND: Tensor) -> Tensor:
    """Return the part of the output that no latent gives."""
    skip_OD = autoencoder.skip_OD
    return autoencoder.decoder_bias_O if skip_OD is None else x_ND @ skip_OD.T + autoencoder.decoder_bias_O


def _outputs(autoencoder: Autoencoder, codes: Codes, base_NO: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Return the output of the latents below each width, and of all."""
    if not widths:
        return [combination(codes.values_M, autoencoder.decoder_FO, codes.pattern) + base_NO]
    outputs: list[Tensor] = []
    output_NO, first = base_NO, 0
    for end in (*widths, codes.pattern.n_latents):
        part, places = codes.pattern.within(first, end)
        output_NO = output_NO + combination(codes.values_M[places], autoencoder.decoder_FO, part)
        outputs.append(output_NO)
        first = end
    return outputs


def _dead_loss(autoencoder: Autoencoder, x_ND: Tensor, left_NO: Tensor, dead_A: Tensor) -> Tensor:
    """Return the share of the error's variance that dead latents leave over, weighted by their number.

    Half the width of the state is their budget for a token. Negative values are kept: they, too, give a gradient.
    """
    n_used = min(x_ND.shape[1] // 2, len(dead_A))
    centred_ND = x_ND if autoencoder.config.is_transcoder else x_ND - autoencoder.decoder_bias_O
    values_NA = centred_ND @ autoencoder.encoder_FD[dead_A].T + autoencoder.encoder_bias_F[dead_A]
    if n_used < len(dead_A):
        chosen = values_NA.detach().topk(n_used, dim=-1, sorted=False).indices
        values_NA = values_NA * torch.zeros_like(values_NA).scatter_(1, chosen, 1.0)
    rebuilt_NO = values_NA @ autoencoder.decoder_FO[dead_A]
    variance = (left_NO - left_NO.mean(0)).square().mean().clamp_min(1e-12)
    weight = min(len(dead_A) / max(x_ND.shape[1] // 2, 1), 1.0)
    return weight * (left_NO - rebuilt_NO).square().mean() / variance


def _jump_loss(autoencoder: Autoencoder, form: SaeForm, x_ND: Tensor, y_NO: Tensor, dead_A: Tensor) -> Loss:
    assert autoencoder.threshold_F is not None
    scores_NF = autoencoder.pre_activations(x_ND)
    threshold_F = autoencoder.threshold_F
    values_NF = _Jump.apply(scores_NF, threshold_F, form.kernel)
    output_NO = values_NF @ autoencoder.decoder_FO + _base(autoencoder, x_ND)  # pyright: ignore
    error = (y_NO - output_NO).square().mean()
    n_active: Tensor = _Step.apply(scores_NF.detach(), threshold_F, form.kernel).sum() / len(x_ND)  # pyright: ignore
    total = error + form.active_weight * (n_active / form.k - 1).square()
    if len(dead_A):
        total = total + form.dead_weight * _dead_loss(autoencoder, x_ND, y_NO - output_NO.detach(), dead_A)
    with torch.no_grad():
        pattern: Pattern = above(scores_NF, threshold_F)
        lowest = float(threshold_F.min())
    return Loss(total, float(error.detach()), float(n_active.detach()), pattern.is_fired_F, lowest)


class _Jump(torch.autograd.Function):
    """x where it is above the threshold, else 0; the threshold's gradient is that of a box around it."""

    @staticmethod
    def forward(ctx: Any, x_NF: Tensor, threshold_F: Tensor, kernel: float) -> Tensor:
        ctx.save_for_backward(x_NF, threshold_F)
        ctx.kernel = kernel
        return x_NF * (x_NF > threshold_F)

    @staticmethod
    def backward(ctx: Any, grad_NF: Tensor) -> tuple[Tensor, Tensor, None]:
        x_NF, threshold_F = ctx.saved_tensors
        is_near_NF = (x_NF - threshold_F).abs() < ctx.kernel / 2
        of_threshold_F = -(grad_NF * is_near_NF).sum(0) * threshold_F / ctx.kernel
        return grad_NF * (x_NF > threshold_F), of_threshold_F, None


class _Step(torch.autograd.Function):
    """1 where x is above the threshold, else 0; only the threshold has a gradient."""

    @staticmethod
    def forward(ctx: Any, x_NF: Tensor, threshold_F: Tensor, kernel: float) -> Tensor:
        ctx.save_for_backward(x_NF, threshold_F)
        ctx.kernel = kernel
        return (x_NF > threshold_F).to(x_NF)

    @staticmethod
    def backward(ctx: Any, grad_NF: Tensor) -> tuple[None, Tensor, None]:
        x_NF, threshold_F = ctx.saved_tensors
        is_near_NF = (x_NF - threshold_F).abs() < ctx.kernel / 2
        return None, -(grad_NF * is_near_NF).sum(0) / ctx.kernel, None
