"""Figures of an autoencoder beside direct computations; places in a model beside the model's own modules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.align.sae.autoencoder import Autoencoder, AutoencoderConfig
from modelstack.align.sae.hook_point import HookPoint, replaced, states_at
from modelstack.align.sae.reconstruction import StateTotals, density_histogram, measured
from modelstack.align.sae.state_windows import StateSource
from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.posttrain.base import Base, load_base
from tests.modelstack.align.sae.toy_sae import write_toy

POINTS = ("residual", "attention", "mlp", "transcoder")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    base = load_base(write_toy(tmp_path_factory.mktemp("figures")))
    base.model.requires_grad_(False)
    return base


def a_batch(n_rows: int = 2, T: int = 10) -> Batch:
    ids_BT = torch.randint(40, 90, (n_rows, T), generator=torch.Generator().manual_seed(0))
    documents_BT = (torch.arange(T) >= 6).long().expand(n_rows, T).contiguous()
    labels_BT = ids_BT.roll(-1, 1)
    labels_BT[:, 5] = labels_BT[:, -1] = IGNORED
    return Batch(ids_BT, labels_BT, documents_BT, 0)


def exact(width: int) -> Autoencoder:
    """An autoencoder that gives each state back: a latent for each direction and its opposite."""
    model = Autoencoder(AutoencoderConfig(activation="jumprelu", d_in=width, d_out=width, n_latents=2 * width))
    with torch.no_grad():
        rows = torch.cat([torch.eye(width), -torch.eye(width)])
        model.encoder_FD.copy_(rows)
        model.decoder_FO.copy_(rows)
    return model.requires_grad_(False)


def module_states(base: Base, hook: HookPoint, batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute input and output of a place with plain hooks in a whole forward pass."""
    found: dict[str, Tensor] = {}
    block: Any = base.model.model.layers[hook.layer]
    module = {"residual": block, "attention": block.self_attn}.get(hook.point, block.mlp)

    def keep(_module: Any, arguments: Any, output: Tensor) -> None:
        found["x"], found["y"] = arguments[0], output

    handle = module.register_forward_hook(keep)
    base.model(batch.ids_BT, documents_BT=batch.documents_BT)
    handle.remove()
    return found["x"] if hook.point == "transcoder" else found["y"], found["y"]


@pytest.mark.parametrize("point", POINTS)
def test_states_are_those_of_a_whole_pass_and_end_it_early(base: Base, point: Any) -> None:
    hook, batch = HookPoint(layer=1, point=point), a_batch()
    above: list[int] = []
    handle = base.model.model.layers[2].register_forward_hook(lambda *_: above.append(1))
    x_BTD, y_BTD = states_at(base.model, hook, batch.ids_BT, batch.documents_BT)
    assert not above, "layers above the place are not computed"
    handle.remove()
    expected = module_states(base, hook, batch)
    torch.testing.assert_close((x_BTD, y_BTD), expected)
    assert not base.model.model.layers[1]._forward_hooks


@pytest.mark.parametrize("point", POINTS)
def test_the_same_output_put_back_changes_nothing_and_another_one_does(base: Base, point: Any) -> None:
    hook, batch = HookPoint(layer=1, point=point), a_batch()
    plain = base.model(batch.ids_BT, documents_BT=batch.documents_BT).logits_BTV
    with replaced(base.model, hook, lambda x, y: y):
        same = base.model(batch.ids_BT, documents_BT=batch.documents_BT).logits_BTV
    with replaced(base.model, hook, lambda x, y: 2 * y):
        other = base.model(batch.ids_BT, documents_BT=batch.documents_BT).logits_BTV
    assert torch.equal(plain, same) and not torch.allclose(plain, other)


def test_an_exact_autoencoder_recovers_everything(base: Base) -> None:
    source = StateSource(base.model, HookPoint(layer=1), frozenset(), 1)
    figures, states = measured(source, exact(base.config.hidden_size), [a_batch()])
    assert figures["loss_recovered"] == pytest.approx(1, abs=1e-4)
    assert figures["kl_score"] == pytest.approx(1, abs=1e-4)
    assert figures["explained_variance"] == pytest.approx(1, abs=1e-6)
    assert figures["l2_ratio"] == pytest.approx(1, abs=1e-6)
    assert figures["l0"] == pytest.approx(base.config.hidden_size)
    assert states.n == 2 * (10 - 2)


def test_model_figures_are_those_of_whole_passes(base: Base) -> None:
    hook, batch = HookPoint(layer=1), a_batch(1)
    source = StateSource(base.model, hook, frozenset(), 1)
    sae = exact(base.config.hidden_size)
    assert sae.threshold_F is not None
    sae.threshold_F.fill_(0.5)
    figures, _ = measured(source, sae, [batch])
    is_read = torch.tensor([at not in (0, 6) for at in range(10)])[None, :, None]

    def run(change: Any) -> Tensor:
        with replaced(base.model, hook, lambda x, y: torch.where(is_read, change(y), y)):
            logits = base.model(batch.ids_BT, documents_BT=batch.documents_BT).logits_BTV[0]
        return logits[batch.labels_BT[0] != IGNORED].log_softmax(-1).double()

    labels = batch.labels_BT[batch.labels_BT != IGNORED]
    plain, zeros = run(lambda y: y), run(torch.zeros_like)
    rebuilt = run(lambda y: y * (y.abs() > 0.5))
    ce, ce_rebuilt, ce_zeros = (float(F.nll_loss(each, labels)) for each in (plain, rebuilt, zeros))
    assert figures["loss_recovered"] == pytest.approx((ce_zeros - ce_rebuilt) / (ce_zeros - ce), rel=1e-3)
    kl, kl_zeros = (float((plain.exp() * (plain - each)).sum()) for each in (rebuilt, zeros))
    assert figures["kl_score"] == pytest.approx((kl_zeros - kl) / kl_zeros, rel=1e-3)


def test_explained_variance_is_of_the_whole_set_not_of_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(300, 4, generator=generator) + 100 * (torch.arange(300) // 100)[:, None]
    model = exact(4)
    assert model.threshold_F is not None
    model.threshold_F.fill_(0.8)
    totals = StateTotals(4, 8)
    for part in x_ND.split(100):
        totals.add(model, part, part)
    rebuilt_ND = (x_ND * (x_ND.abs() > 0.8)).double()
    error = (x_ND.double() - rebuilt_ND).square().sum(1).mean()
    expected = 1 - error / x_ND.double().var(0, correction=0).sum()
    assert totals.figures["explained_variance"] == pytest.approx(float(expected), abs=1e-9)
    ratio = rebuilt_ND.norm(dim=1) / x_ND.double().norm(dim=1)
    assert totals.figures["l2_ratio"] == pytest.approx(float(ratio.mean()), abs=1e-9)
    assert totals.figures["l0"] == pytest.approx(float((x_ND.abs() > 0.8).sum(1).double().mean()))
    fires = torch.cat([x_ND > 0.8, x_ND < -0.8], dim=1)
    assert torch.equal(totals.fired_F, fires.sum(0)) and totals.figures["alive"] == float(
        fires.any(0).double().mean()
    )
    torch.testing.assert_close(totals.highest_F[:4], x_ND.amax(0))


def test_the_histogram_counts_each_living_latent_once() -> None:
    histogram = density_histogram(torch.tensor([0, 1e-9, 1e-3, 1e-3, 0.5, 1.0]))
    assert sum(count for _, count in histogram) == 5 and len(histogram) == 20
    at = {edge: count for edge, count in histogram if count}
    assert math.isclose(min(at), -6) and at[max(at)] >= 1
