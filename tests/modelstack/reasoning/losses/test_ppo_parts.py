"""PPO's parts: rewards by token, advantages from a critic, whitening, the critic's loss, the KL coefficient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modelstack.reasoning.losses.critic import CriticConfig, critic_loss
from modelstack.reasoning.losses.gae import generalised_advantages, token_rewards, whiten
from modelstack.reasoning.losses.kl_control import KlControl, next_kl_coefficient
from modelstack.reasoning.losses.rollouts import StepTotals


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_generalised_advantages_have_their_formulas_values() -> None:
    found = generalised_advantages(f64([[0, 0, 1]]), f64([[0.2, 0.5, 0.4]]), torch.ones(1, 3).bool())
    assert found.advantages_BT[0].tolist() == pytest.approx([0.7465, 0.47, 0.6])
    assert found.returns_BT[0].tolist() == pytest.approx([0.9465, 0.97, 1.0])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_tokens_that_the_policy_did_not_choose_are_no_steps(gamma: float, lam: float) -> None:
    """A row with tool output in it has the advantages of the row without."""
    generator = torch.Generator().manual_seed(0)
    T = 12
    mask = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1]]).bool()
    rewards, values = (torch.randn(2, T, generator=generator, dtype=torch.float64) for _ in range(2))
    whole = generalised_advantages(
        rewards.masked_fill(~mask, torch.nan), values.masked_fill(~mask, torch.nan), mask, gamma=gamma, lam=lam
    )
    assert not whole.advantages_BT[~mask].any() and not whole.returns_BT[~mask].any()
    for b in range(2):
        own, said = (x[b][mask[b]][None] for x in (rewards, values))
        alone = generalised_advantages(own, said, torch.ones_like(own).bool(), gamma=gamma, lam=lam)
        assert torch.allclose(whole.advantages_BT[b][mask[b]], alone.advantages_BT[0])
        assert torch.allclose(whole.returns_BT[b][mask[b]], alone.returns_BT[0])


def test_at_lambda_one_the_return_is_the_discounted_sum_of_rewards() -> None:
    rewards, values = f64([[1, -2, 3]]), f64([[0.3, 0.1, -0.7]])
    found = generalised_advantages(rewards, values, torch.ones(1, 3).bool(), gamma=0.5, lam=1.0)
    assert found.returns_BT[0].tolist() == pytest.approx([1 - 1 + 0.75, -2 + 1.5, 3])


def test_a_completions_reward_lies_at_its_last_token_and_the_kl_at_each() -> None:
    old, ref = f64([[-1, -1, -1, -1], [-2, -1, -1, -1]]), f64([[-1.5, -1, -1, 9], [-1, -1, 9, 9]])
    mask = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]]).bool()
    found = token_rewards(f64([2.0, -1.0]), old, ref, mask, beta=0.1)
    assert found.tolist() == [pytest.approx([-0.05, 0, 2, 0]), pytest.approx([0.1, -1, 0, 0])]


def test_whitened_values_have_mean_zero_and_variance_one_over_the_mask() -> None:
    values = f64([[1.0, 5.0, 100.0], [2.0, float("nan"), 4.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 1]]).bool()
    white = whiten(values, mask)
    assert white[mask].mean().item() == pytest.approx(0, abs=1e-12)
    assert white[mask].std().item() == pytest.approx(1, abs=1e-6) and not white[~mask].any()
    kept = whiten(values, mask, keep_mean=True)
    assert kept[mask].mean().item() == pytest.approx(3) and not kept[~mask].any()


def test_whitening_equal_values_gives_zeros() -> None:
    assert not whiten(f64([[2.0, 2.0]]), torch.ones(1, 2).bool()).any()


def test_the_critics_loss_is_the_worse_of_two_squares() -> None:
    values, old = f64([[1.0, 0.0, 9.0]]).requires_grad_(), f64([[0.5, 0.1, 9.0]])
    returns, mask = f64([[0.0, 1.0, float("nan")]]), torch.tensor([[1, 1, 0]]).bool()
    found = critic_loss(values, old, returns, mask, CriticConfig(coefficient=1.0))
    # The first is clipped to 0.7: its own error 1 is larger. The second is within the clip.
    assert found.loss.item() == pytest.approx(0.5 * (1 + 1) / 2)
    found.loss.backward()
    assert values.grad is not None and values.grad.tolist() == [[0.5, -0.5, 0.0]]
    assert found.metrics["critic/clip_ratio"] == 0


def test_a_value_that_went_too_far_towards_its_return_has_no_gradient() -> None:
    values, old = f64([[0.9]]).requires_grad_(), f64([[0.0]])
    found = critic_loss(values, old, f64([[1.0]]), torch.ones(1, 1).bool(), CriticConfig(coefficient=1.0))
    assert found.loss.item() == pytest.approx(0.5 * 0.8**2) and found.metrics["critic/clip_ratio"] == 1
    found.loss.backward()
    assert values.grad is not None and values.grad.item() == 0


def test_critic_losses_of_micro_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(1)
    values, old, returns = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    whole = critic_loss(values, old, returns, mask).loss.item()
    totals = StepTotals(n_tokens=mask.sum(), n_sequences=4)
    halves = [
        critic_loss(values[rows], old[rows], returns[rows], mask[rows], totals=totals)
        for rows in (slice(2), slice(2, 4))
    ]
    assert sum(half.loss.item() for half in halves) == pytest.approx(whole)


def test_explained_variance_is_one_for_a_critic_that_knows() -> None:
    returns, mask = f64([[0.0, 1.0, 3.0]]), torch.ones(1, 3).bool()
    explained = [
        critic_loss(v, v, returns, mask).metrics["critic/explained_variance"].item()
        for v in (returns, returns * 0)
    ]
    assert explained == pytest.approx([1, 0])


def test_the_kl_coefficient_moves_towards_the_target_by_bounded_steps() -> None:
    control = KlControl(target=6.0, gain=0.1)
    assert next_kl_coefficient(0.2, 6.0, control) == pytest.approx(0.2)
    assert next_kl_coefficient(0.2, 6.6, control) == pytest.approx(0.2 * 1.01)
    assert next_kl_coefficient(0.2, 1000.0, control) == pytest.approx(0.2 * 1.02)
    assert next_kl_coefficient(0.2, -3.0, control) == pytest.approx(0.2 * 0.98)
