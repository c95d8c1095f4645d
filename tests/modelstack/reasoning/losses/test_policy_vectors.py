"""Policy losses, estimators and advantages on numbers that were worked out from the papers' formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.reasoning.losses.advantages import (
    decoupled_advantages,
    group_advantages,
    informative_groups,
    leave_one_out_advantages,
    summed_rewards,
)
from modelstack.reasoning.losses.algorithms import ALGORITHMS
from modelstack.reasoning.losses.kl import kl_estimate, kl_penalised_rewards
from modelstack.reasoning.losses.policy import policy_loss
from modelstack.reasoning.losses.policy_config import (
    Cispo,
    Clip,
    KlEstimator,
    KlTerm,
    PolicyConfig,
    ProbabilityMask,
)
from modelstack.reasoning.losses.ratios import level_log_ratio
from modelstack.reasoning.losses.rollouts import Rollouts
from modelstack.reasoning.losses.sampler_correction import SamplerCorrection, off_policy_mask, sampler_weights


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


NEW = f64([[-1, -2, -0.5], [-1.5, -0.2, 0]])
OLD = f64([[-1.2, -1.9, -0.5], [-1, -0.3, 0]])
REF = f64([[-1.1, -2.2, -0.4], [-1.4, -0.5, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
A = f64([1, -1])
ROLLOUTS = Rollouts(NEW, MASK, A, OLD, REF)


def loss(config: PolicyConfig, rollouts: Rollouts = ROLLOUTS) -> float:
    return policy_loss(rollouts, config).loss.item()


def test_ratios_have_their_formulas_values() -> None:
    token = level_log_ratio(NEW - OLD, MASK, "token").exp()[MASK]
    assert token.tolist() == pytest.approx([1.221403, 0.904837, 1, 0.606531, 1.105171], abs=5e-7)
    sequence = level_log_ratio(NEW - OLD, MASK, "sequence_mean").exp()
    assert sequence.flatten().tolist() == pytest.approx([1.033895, 0.818731], abs=5e-7)
    total = level_log_ratio(NEW - OLD, MASK, "sequence_sum").exp()
    assert total.flatten().log().tolist() == pytest.approx([0.1, -0.4])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PolicyConfig(), -0.041180),
        (PolicyConfig(aggregation="token_mean"), -0.239933),
        (PolicyConfig(aggregation="prompt_token_mean"), -0.239933),
        (PolicyConfig(aggregation="constant", max_completion_tokens=4), -0.149958),
        (PolicyConfig(surrogate=Clip(epsilon_high=0.28), aggregation="token_mean"), -0.244214),
        (ALGORITHMS["dapo"], -0.244214),
        (PolicyConfig(kl=KlTerm(coefficient=0.04)), -0.040529),
        (ALGORITHMS["grpo"], -0.040529),
        (ALGORITHMS["gspo"], -0.00035),
        (PolicyConfig(surrogate=Cispo(ratio_cap=5.0), aggregation="token_mean"), 0.480049),
        (PolicyConfig(surrogate=Clip(delta=3.0), aggregation="token_mean"), -0.239933),
    ],
    ids=lambda value: "" if isinstance(value, float) else None,
)
def test_losses_have_their_formulas_values(config: PolicyConfig, expected: float) -> None:
    assert loss(config) == pytest.approx(expected, abs=5e-7)


def test_tokens_have_their_clipped_losses() -> None:
    expected = [-1.2, -0.904837, -1, 0.8, 1.105171]
    places = MASK.nonzero().tolist()
    for (row, column), value in zip(places, expected, strict=True):
        one = torch.zeros_like(MASK)
        one[row, column] = True
        rollouts = Rollouts(NEW, one, A, OLD, REF)
        assert loss(PolicyConfig(aggregation="token_mean"), rollouts) == pytest.approx(value, abs=5e-7)


def test_sequences_that_are_not_averaged_have_their_formulas_values() -> None:
    """Of luspo: the sequence ratio's loss times its length; of rloo: the sum's ratio."""
    low, high = 1 - 3e-4, 1 + 4e-4
    luspo = (-min(1.033895, high) * 3 + max(0.818731, low) * 2) / 2
    assert loss(ALGORITHMS["luspo"]) == pytest.approx(luspo, abs=5e-7)
    rloo = (-min(1.105171, 1.2) + max(0.670320, 0.8)) / 2
    assert loss(ALGORITHMS["rloo"]) == pytest.approx(rloo, abs=5e-7)


def test_reinforce_is_the_log_probability_times_the_advantage_over_valid_tokens() -> None:
    assert loss(ALGORITHMS["reinforce"]) == pytest.approx((3.5 - 1.7) / 5)


def test_prime_rls_loss_drops_tokens_that_moved_too_far_and_keeps_their_square() -> None:
    """Of the second completion p falls by 0.145 at the first token and rises by 0.078 at the second."""
    r = (NEW - OLD).exp()
    squares = 1e-3 * (NEW - OLD).square()[MASK].sum().item()
    all_kept = (-r[0].sum() + r[1, :2].sum()).item()
    assert loss(ALGORITHMS["prime_rl"]) == pytest.approx((all_kept + squares) / 5)
    narrow = PolicyConfig(surrogate=ProbabilityMask(low=0.1, high=0.05), aggregation="token_mean")
    kept = (-r[0, 1:].sum() + r[1, 1]).item()  # of the first completion the first token rose by 0.067
    found = policy_loss(ROLLOUTS, narrow)
    assert found.loss.item() == pytest.approx((kept + squares) / 5)
    assert found.metrics["clip_ratio/region_mean"].item() == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.1, 0.2, -0.1, -0.1, 0.3]),
        ("k2", [0.005, 0.02, 0.005, 0.005, 0.045]),
        ("k3", [0.004837, 0.018731, 0.005171, 0.005171, 0.040818]),
    ],
)
def test_kl_estimators_have_their_formulas_values(estimator: KlEstimator, expected: list[float]) -> None:
    assert kl_estimate(NEW, REF, estimator)[MASK].tolist() == pytest.approx(expected, abs=5e-7)


def test_one_token_cannot_make_the_kl_infinite() -> None:
    far = f64([-1000.0, -1.0]), f64([-1.0, -1000.0])
    assert kl_estimate(*far, "k1").tolist() == [-20, 20]
    assert kl_estimate(*far, "k3").tolist() == [10, 10]


def test_the_kl_in_the_reward_is_the_sum_of_k1() -> None:
    found = kl_penalised_rewards(f64([1.0, 0.0]), OLD, REF, MASK, beta=0.05)
    assert found.tolist() == pytest.approx([1 - 0.05 * 0.1, 0.0 - 0.05 * 0.6])


def test_group_advantages_have_their_formulas_values() -> None:
    R = f64([[1, 0, 0, 1]])
    assert group_advantages(R)[0].tolist() == pytest.approx([0.865875, -0.865875, -0.865875, 0.865875], abs=5e-7)
    assert group_advantages(R, "none")[0].tolist() == [0.5, -0.5, -0.5, 0.5]
    assert leave_one_out_advantages(R)[0].tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])


def test_the_batchs_deviation_is_over_all_rewards() -> None:
    R = f64([[1, 0], [5, 5]])
    deviation = f64([1, 0, 5, 5]).std().item() + 1e-4
    assert group_advantages(R, "batch").flatten().tolist() == pytest.approx(
        [0.5 / deviation, -0.5 / deviation, 0, 0]
    )


def test_what_could_not_be_judged_has_no_advantage_and_moves_no_other() -> None:
    nan = float("nan")
    for rule in (group_advantages, leave_one_out_advantages):
        with_gap, without = rule(f64([[1, 0, nan, 0]])), rule(f64([[1, 0, 0]]))
        assert with_gap[0, [0, 1, 3]].tolist() == pytest.approx(without[0].tolist()) and with_gap[0, 2] == 0
        assert rule(f64([[nan, 3.0]])).tolist() == [[0, 0]]
        assert rule(f64([[nan, nan]])).tolist() == [[0, 0]]


def test_groups_of_equal_rewards_have_no_advantage_and_are_told() -> None:
    nan = float("nan")
    R = f64([[1, 1], [1, 0], [nan, 1], [nan, nan]])
    assert informative_groups(R).tolist() == [False, True, False, False]
    assert not group_advantages(R)[[0, 2, 3]].any()


def test_several_rewards_are_summed_by_weight() -> None:
    nan = float("nan")
    rewards = f64([[[1, 2], [0, nan], [nan, nan]]])
    found = summed_rewards(rewards, (1.0, 0.5))[0]
    assert found[:2].tolist() == [2, 0] and found[2].isnan()
    with pytest.raises(UserError, match="1 weights for 2 rewards"):
        summed_rewards(rewards, (1.0,))


def test_decoupled_rewards_keep_apart_what_a_sum_makes_equal() -> None:
    """Rewards (1, 0) and (0, 1) have the same sum, but the rarer success is worth more."""
    rewards = f64([[[1, 0], [0, 1], [1, 0], [1, 0]]])
    summed = group_advantages(summed_rewards(rewards, (1.0, 1.0)))[0]
    assert not summed.any()
    weighted = decoupled_advantages(f64([[[1, 0], [0, 10], [1, 0], [0, 0]]]), (1.0, 1.0))
    scaled = decoupled_advantages(f64([[[1, 0], [0, 1], [1, 0], [0, 0]]]), (1.0, 1.0))
    assert weighted[0].tolist() == pytest.approx(scaled[0].tolist(), abs=2e-3)
    assert weighted.mean().item() == pytest.approx(0, abs=1e-12)
    assert weighted.flatten().std().item() == pytest.approx(1, abs=1e-3)


SAMPLED = f64([[-1.2, -1.9 - 1.5, float("nan")], [-1.1, -0.3, 7]])


def test_tokens_of_another_engine_are_truncated_or_dropped() -> None:
    cut = sampler_weights(OLD, SAMPLED, MASK, SamplerCorrection(name="token_truncate", high=2.0))
    assert cut.flatten().tolist() == pytest.approx([1, 2, 1, 1.105171, 1, 1], abs=5e-7)
    dropped = sampler_weights(OLD, SAMPLED, MASK, SamplerCorrection(name="token_mask", high=2.0))
    assert dropped.flatten().tolist() == pytest.approx([1, 0, 1, 1.105171, 1, 1], abs=5e-7)


def test_completions_of_another_engine_are_truncated_or_dropped() -> None:
    assert sampler_weights(OLD, SAMPLED, MASK).flatten().tolist() == pytest.approx([0, 1.105171], abs=5e-7)
    cut = sampler_weights(OLD, SAMPLED, MASK, SamplerCorrection(name="sequence_truncate", low=1.2))
    assert cut.flatten().tolist() == pytest.approx([3, 1.2])


def test_the_correction_multiplies_the_surrogate_but_not_the_kl() -> None:
    weights = f64([[2.0], [0.0]])
    rollouts = Rollouts(NEW, MASK, A, OLD, REF, correction=weights)
    plain = loss(PolicyConfig(kl=KlTerm(coefficient=0.04))) - loss(PolicyConfig())
    with_kl = loss(PolicyConfig(kl=KlTerm(coefficient=0.04)), rollouts)
    assert with_kl == pytest.approx(2 * (-1.2 - 0.904837 - 1) / 3 / 2 + plain, abs=5e-7)


def test_only_bad_completions_that_the_policy_has_left_are_dropped() -> None:
    left = NEW - 1.0
    for advantages, expected in (([1, 1], [1, 1]), ([-1, -1], [1, 0]), ([-1, 1], [1, 1])):
        found = off_policy_mask(torch.stack((NEW[0], left[1])), NEW, MASK, f64(advantages), threshold=0.5)
        assert found.flatten().tolist() == expected
