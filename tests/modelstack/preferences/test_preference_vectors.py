"""Losses of preferences on numbers that were worked out by hand from the papers' formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from modelstack.errors import UserError
from modelstack.preferences.direct import DIRECT_LOSSES, direct_loss
from modelstack.preferences.direct_config import PUBLISHED, DirectLossConfig
from modelstack.preferences.odds_ratio import OrpoConfig, log1mexp, log_odds_ratio, orpo_loss
from modelstack.preferences.pairs import Pairs
from modelstack.preferences.reference_free import CpoConfig, SimpoConfig, cpo_loss, simpo_loss
from modelstack.preferences.reward.loss import RewardModelConfig, reward_model_loss
from modelstack.preferences.unpaired import UnpairedConfig, kl_baseline, unpaired_loss


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


LENGTHS = torch.tensor([4, 3]), torch.tensor([5, 2])
POLICY = Pairs(f64(-3, -2), f64(-4, -1.5), *LENGTHS)
REFERENCE = Pairs(f64(-3.2, -2.4), f64(-3.5, -1.9), *LENGTHS)


def only(pairs: Pairs, n: int) -> Pairs:
    """Return one of the pairs, whose mean is its own loss."""
    one = slice(n, n + 1)
    return Pairs(pairs.chosen[one], pairs.rejected[one], pairs.n_chosen[one], pairs.n_rejected[one])


def direct(name: str, **more: Any) -> DirectLossConfig:
    return DirectLossConfig.model_validate({"losses": [{"name": name}]} | more)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (direct("sigmoid"), (0.658760, 0.693147)),
        (direct("cdpo", label_smoothing=0.1), (0.665760, 0.693147)),
        (direct("robust", label_smoothing=0.1), (0.650010, 0.693147)),
        (direct("hinge"), (0.93, 1.0)),
        (direct("ipo_sum"), (18.49, 25.0)),
        (direct("ipo"), (23.5225, 25.671111)),
        (direct("sigmoid_norm", beta=5.0), (0.386871, 0.873639)),
        (direct("apo_zero"), (0.982503, 1.0)),
    ],
    ids=lambda value: value.losses[0].name if isinstance(value, DirectLossConfig) else "",
)
def test_losses_against_a_reference_have_their_formulas_values(
    config: DirectLossConfig, expected: tuple[float, float]
) -> None:
    for n, value in enumerate(expected):
        assert direct_loss(only(POLICY, n), only(REFERENCE, n), config).loss.item() == pytest.approx(
            value, abs=5e-7
        )
    mean = direct_loss(POLICY, REFERENCE, config).loss
    assert mean.dtype == torch.float64 and mean.item() == pytest.approx(sum(expected) / 2, abs=5e-7)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SimpoConfig(beta=2.0, gamma=0.5), (0.913015, 0.873639)),
        (SimpoConfig(beta=2.5, gamma=1.375), (1.501929, 1.437764)),
        (CpoConfig(nll_coefficient=0), (0.644397, 0.718460)),
    ],
    ids=["simpo", "simpo with a large margin", "cpo"],
)
def test_reference_free_losses_have_their_formulas_values(
    config: SimpoConfig | CpoConfig, expected: tuple[float, float]
) -> None:
    for n, value in enumerate(expected):
        pair = only(POLICY, n)
        loss = simpo_loss(pair, config) if isinstance(config, SimpoConfig) else cpo_loss(pair, config)
        assert loss.loss.item() == pytest.approx(value, abs=5e-7)


def test_cpo_adds_the_token_mean_of_the_chosen_completions() -> None:
    extra = cpo_loss(POLICY).loss - cpo_loss(POLICY, CpoConfig(nll_coefficient=0)).loss
    assert extra.item() == pytest.approx(5 / 7)


def test_alphapo_tends_to_simpo_for_small_alpha_on_both_sides() -> None:
    plain = simpo_loss(POLICY).loss.item()
    for alpha in (1e-6, -1e-6):
        assert simpo_loss(POLICY, SimpoConfig(alpha=alpha)).loss.item() == pytest.approx(plain, abs=1e-5)
    assert simpo_loss(POLICY, SimpoConfig(alpha=0.5)).loss.item() != pytest.approx(plain, abs=1e-3)


def test_orpo_has_its_formulas_values() -> None:
    assert log_odds_ratio(POLICY).tolist() == pytest.approx([0.092736, 0.164328], abs=5e-7)
    for n, value in enumerate((0.064785, 0.061435)):
        loss = orpo_loss(only(POLICY, n), f64(0.0)[0], OrpoConfig(ratio_coefficient=0.1)).loss
        assert loss.item() == pytest.approx(value, abs=5e-7)
    assert orpo_loss(POLICY, f64(1.5)[0]).loss.item() == pytest.approx(1.5 + 0.063110, abs=5e-7)


def test_log1mexp_is_exact_on_both_sides_and_finite_at_zero() -> None:
    x = f64(-50.0, -1.0, -0.5, -1e-9, 0.0).requires_grad_()
    found = log1mexp(x)
    exact = [-1.928749847963918e-22, -0.45867514538708193, -0.9327521295671886, -20.72326583744641]
    assert found[:4].tolist() == pytest.approx(exact, rel=1e-12)
    found.sum().backward()
    assert found.isfinite().all() and x.grad is not None and x.grad.isfinite().all()


def test_kto_has_its_formulas_values() -> None:
    z0 = f64(0.15)[0]
    for policy, reference, is_good, expected in (
        (POLICY.chosen, REFERENCE.chosen, True, (0.498750, 0.493750)),
        (POLICY.rejected, REFERENCE.rejected, False, (0.483756, 0.506250)),
    ):
        for n, value in enumerate(expected):
            loss = unpaired_loss(policy[n : n + 1], reference[n : n + 1], torch.tensor([is_good]), z0=z0).loss
            assert loss.item() == pytest.approx(value, abs=5e-7)


def test_kto_weighs_desirable_and_undesirable_completions() -> None:
    policy, reference = (
        torch.cat((POLICY.chosen, POLICY.rejected)),
        torch.cat((REFERENCE.chosen, REFERENCE.rejected)),
    )
    config = UnpairedConfig(desirable_weight=2.0, undesirable_weight=0.5)
    found = unpaired_loss(policy, reference, torch.tensor([True, True, False, False]), config, f64(0.15)[0])
    assert found.loss.item() == pytest.approx(
        (2 * (0.498750 + 0.493750) + 0.5 * (0.483756 + 0.506250)) / 4, abs=1e-6
    )
    assert found.metrics["rewards/margins"].item() == pytest.approx(0.1 * (0.3 - (-0.05)))


def test_ktos_baseline_is_a_mean_of_sums_that_is_never_negative() -> None:
    assert kl_baseline(f64(-3, -1), f64(-3.2, -1.4)).item() == pytest.approx(0.3)
    assert kl_baseline(f64(-4, -1), f64(-3, -1.4)).item() == 0


@pytest.mark.parametrize(
    ("config", "z0"), [(UnpairedConfig(), None), (UnpairedConfig(name="apo_zero_unpaired"), 0.1)]
)
def test_a_baseline_is_needed_by_kto_and_refused_by_apo(config: UnpairedConfig, z0: float | None) -> None:
    with pytest.raises(UserError, match="z0"):
        unpaired_loss(
            POLICY.chosen,
            REFERENCE.chosen,
            torch.tensor([True, False]),
            config,
            None if z0 is None else f64(z0)[0],
        )


def test_the_reward_models_loss_has_margin_and_centre() -> None:
    chosen, rejected = f64(1.0, 0.5), f64(0.0, 1.0)
    plain = (0.31326168751822286 + 0.9740769841801067) / 2
    assert reward_model_loss(chosen, rejected).loss.item() == pytest.approx(plain)
    centred = reward_model_loss(chosen, rejected, RewardModelConfig(centre_coefficient=0.01)).loss
    assert centred.item() == pytest.approx(plain + 0.01 * (1.0 + 2.25) / 2)
    shifted = reward_model_loss(chosen + 1, rejected, margins_B=f64(1.0, 1.0)).loss
    assert shifted.item() == pytest.approx(plain)


def test_a_list_of_losses_is_their_weighted_sum() -> None:
    parts = {name: direct_loss(POLICY, REFERENCE, direct(name)).loss for name in ("sigmoid", "bco_pair", "sft")}
    expected = 0.8 * parts["sigmoid"] + 0.2 * parts["bco_pair"] + parts["sft"]
    assert direct_loss(POLICY, REFERENCE, PUBLISHED["mpo"]).loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"losses": [{"name": "exo_pair"}]}, "label_smoothing"),
        ({"losses": [{"name": "apo_zero"}], "divergence": "forward_kl"}, "reverse KL only"),
        ({"losses": [{"name": "dpo"}]}, "sigmoid"),
        ({"losses": []}, "at least 1"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"betta": 0.1}, "betta"),
    ],
)
def test_configurations_that_cannot_be_say_why(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DirectLossConfig.model_validate(content)


def test_every_name_of_a_loss_has_a_formula_with_a_finite_value() -> None:
    for name in DIRECT_LOSSES:
        assert direct_loss(POLICY, REFERENCE, direct(name, label_smoothing=0.1)).loss.isfinite()
