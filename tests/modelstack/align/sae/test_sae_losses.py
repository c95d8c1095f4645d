"""Losses of the architectures, beside plain dense implementations of their papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.align.sae.autoencoder import Autoencoder, AutoencoderConfig
from modelstack.align.sae.sae_recipe import SaeForm
from modelstack.align.sae.training_losses import Loss, loss_of

N, D, F, K = 40, 12, 30, 4
NONE = torch.empty(0, dtype=torch.int64)


def model_of(form: SaeForm, *, transcoder: bool = False, seed: int = 0) -> Autoencoder:
    config = AutoencoderConfig(
        activation="topk" if form.kind == "topk" else "jumprelu",
        d_in=D,
        d_out=9 if transcoder else D,
        n_latents=F,
        k=K if form.kind == "topk" else None,
        is_transcoder=transcoder,
        has_skip=form.skip,
    )
    model, generator = Autoencoder(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
        if model.threshold_F is not None:
            model.threshold_F.abs_().mul_(2)
    return model


def states(width: int = D, seed: int = 1) -> Tensor:
    return torch.randn(N, width, generator=torch.Generator().manual_seed(seed))


def gradients(model: Autoencoder, total: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    total.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def plain_scores(model: Autoencoder, x_ND: Tensor) -> Tensor:
    shifted_ND = x_ND if model.config.is_transcoder else x_ND - model.decoder_bias_O
    return shifted_ND @ model.encoder_FD.T + model.encoder_bias_F


def plain_error(model: Autoencoder, x_ND: Tensor, y_NO: Tensor, codes_NF: Tensor) -> Tensor:
    output_NO = codes_NF @ model.decoder_FO + model.decoder_bias_O
    if model.skip_OD is not None:
        output_NO = output_NO + x_ND @ model.skip_OD.T
    return (y_NO - output_NO).square().mean()


def check(model: Autoencoder, found: Loss, expected: Tensor) -> None:
    torch.testing.assert_close(found.total, expected)
    ours, theirs = gradients(model, found.total), gradients(model, expected)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("transcoder", [False, True])
@pytest.mark.parametrize("kind", ["topk", "batch_topk"])
def test_top_losses_equal_dense_ones(kind: Any, transcoder: bool) -> None:
    form = SaeForm(kind=kind, latents=F, k=K, skip=transcoder)
    model, x_ND = model_of(form, transcoder=transcoder), states()
    y_NO = states(9, seed=2) if transcoder else x_ND
    scores_NF = plain_scores(model, x_ND).relu()
    flat = scores_NF if kind == "topk" else scores_NF.view(1, -1)
    chosen = flat.topk(K if kind == "topk" else K * N, dim=-1)
    codes_NF = torch.zeros_like(flat).scatter(-1, chosen.indices, chosen.values).view(N, F)
    found = loss_of(model, form, x_ND, y_NO, NONE, 0.1)
    check(model, found, plain_error(model, x_ND, y_NO, codes_NF))
    assert found.n_active == pytest.approx(int((codes_NF > 0).sum()) / N)
    assert torch.equal(found.is_fired_F, (codes_NF > 0).any(0))
    assert found.lowest == pytest.approx(codes_NF[codes_NF > 0].min().item())


def test_nested_widths_are_the_mean_over_prefixes_of_the_dictionary() -> None:
    form = SaeForm(kind="matryoshka", latents=F, k=K, widths=(5, 12))
    model, x_ND = model_of(form), states()
    scores_NF = plain_scores(model, x_ND).relu()
    chosen = scores_NF.flatten().topk(K * N)
    codes_NF = torch.zeros(N * F).scatter(0, chosen.indices, chosen.values).view(N, F)
    errors = []
    for width in (5, 12, F):
        prefix_NF = codes_NF * (torch.arange(F) < width)
        errors.append(plain_error(model, x_ND, x_ND, prefix_NF))
    check(model, loss_of(model, form, x_ND, x_ND, NONE, 0.0), torch.stack(errors).mean())


def test_dead_latents_rebuild_what_the_others_leave_over() -> None:
    form = SaeForm(kind="topk", latents=F, k=K, dead_weight=0.5)
    model, x_ND = model_of(form), states()
    dead_A = torch.arange(3, 20)
    n_used, weight = D // 2, 1.0  # more are dead than half the width
    scores_NF = plain_scores(model, x_ND)
    top = scores_NF.relu().topk(K)
    codes_NF = torch.zeros_like(scores_NF).scatter(-1, top.indices, top.values)
    left_NO = (x_ND - codes_NF @ model.decoder_FO - model.decoder_bias_O).detach()
    dead = scores_NF[:, dead_A].topk(n_used)
    dead_NA = torch.zeros(N, len(dead_A)).scatter(-1, dead.indices, dead.values)
    share = (left_NO - dead_NA @ model.decoder_FO[dead_A]).square().mean() / (
        left_NO - left_NO.mean(0)
    ).square().mean()
    expected = plain_error(model, x_ND, x_ND, codes_NF) + 0.5 * weight * share
    check(model, loss_of(model, form, x_ND, x_ND, dead_A, 0.0), expected)


def test_few_dead_latents_weigh_less() -> None:
    form = SaeForm(kind="topk", latents=F, k=K, dead_weight=0.0)
    heavy = form.model_copy(update={"dead_weight": 1.0})
    model, x_ND = model_of(form), states()

    def of_dead(n: int) -> float:
        with torch.no_grad():
            with_dead, without = (
                loss_of(model, each, x_ND, x_ND, torch.arange(n), 0.0).total for each in (heavy, form)
            )
            return float(with_dead - without)

    left = (x_ND - model(x_ND)).detach()
    one = model.encoder_FD[:1]
    values_N1 = (x_ND - model.decoder_bias_O) @ one.T + model.encoder_bias_F[:1]
    share = (left - values_N1 @ model.decoder_FO[:1]).square().mean() / (left - left.mean(0)).square().mean()
    assert of_dead(1) == pytest.approx(share.item() / (D // 2), rel=1e-4)


def test_thresholds_have_the_gradient_of_a_box_around_them() -> None:
    form = SaeForm(kind="jumprelu", latents=F, k=K, kernel=0.8, active_weight=0.3)
    model, x_ND = model_of(form), states()
    assert model.threshold_F is not None
    found = loss_of(model, form, x_ND, x_ND, NONE, 0.0)
    ours = gradients(model, found.total)
    scores_NF = plain_scores(model, x_ND)
    threshold_F = model.threshold_F.detach()
    is_active_NF = scores_NF > threshold_F
    error = plain_error(model, x_ND, x_ND, scores_NF * is_active_NF)
    n_active = is_active_NF.sum() / N
    torch.testing.assert_close(found.total, error + 0.3 * (n_active / K - 1) ** 2)
    of_codes_NF = torch.autograd.grad(error, scores_NF, retain_graph=True)[0]
    # The gradient by each code, also by those that are not active.
    output_NO = (scores_NF * is_active_NF) @ model.decoder_FO + model.decoder_bias_O
    of_codes_NF = (-2 * (x_ND - output_NO) / (N * D)) @ model.decoder_FO.T
    near_NF = (scores_NF - threshold_F).abs() < 0.4
    of_active = 0.3 * 2 * (n_active / K - 1) / K / N
    expected_F = -(near_NF * (of_codes_NF * threshold_F + of_active)).sum(0) / 0.8
    torch.testing.assert_close(ours["threshold_F"], expected_F.detach())
    theirs = gradients(model, error)
    for name in ("encoder_FD", "encoder_bias_F", "decoder_FO", "decoder_bias_O"):
        torch.testing.assert_close(ours[name], theirs[name])
    assert near_NF.any() and found.n_active == pytest.approx(float(n_active))


def test_scores_in_bf16_choose_nearly_the_same_latents_with_exact_values() -> None:
    form = SaeForm(kind="topk", latents=F, k=K)
    model, x_ND = model_of(form), states()
    exact = loss_of(model, form, x_ND, x_ND, NONE, 0.0)
    rounded = loss_of(model, form.model_copy(update={"precision": "bf16"}), x_ND, x_ND, NONE, 0.0)
    assert rounded.rebuilt == pytest.approx(exact.rebuilt, rel=0.02)
    assert rounded.total.dtype == torch.float32


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"k": 99}, "k = 99 of 30 latents"),
        ({"widths": (4,)}, "matryoshka"),
        ({"kind": "matryoshka"}, "matryoshka has some"),
        ({"kind": "matryoshka", "widths": (9, 4)}, "must rise"),
        ({"kind": "matryoshka", "widths": (30,)}, "between 0 and latents = 30"),
        ({"kind": "jumprelu", "precision": "bf16"}, "precision must be fp32"),
    ],
)
def test_a_form_that_contradicts_itself_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SaeForm.model_validate({"latents": F, "k": K} | keys)
