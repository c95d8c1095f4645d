"""What must hold of policy losses whatever the numbers are."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from modelstack.errors import UserError
from modelstack.reasoning.losses.algorithms import ALGORITHMS, AlgorithmName
from modelstack.reasoning.losses.kl import kl_estimate
from modelstack.reasoning.losses.policy import policy_loss
from modelstack.reasoning.losses.policy_config import (
    Clip,
    KlEstimator,
    KlTerm,
    PolicyConfig,
    Vespo,
)
from modelstack.reasoning.losses.rollouts import Rollouts, StepTotals

B, T = 6, 7
NAMES = list(ALGORITHMS)


def made(seed: int = 0, *, spread: float = 0.3) -> Rollouts:
    """Return completions of 1 to T tokens; the policy has moved a little."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(B, T, generator=generator, dtype=torch.float64)

    old = -normal().abs() - 0.05
    mask = torch.arange(T) < torch.tensor([7, 3, 1, 5, 2, 6])[:, None]
    mask = mask & ~((torch.arange(T) == 2) & (torch.arange(B)[:, None] == 3))  # a tool's output in the middle
    advantages = torch.randn(B, generator=generator, dtype=torch.float64)
    new = old + spread * normal()
    return Rollouts(new.requires_grad_(), mask, advantages, old, old + 0.2 * normal(), entropy_BT=normal().abs())


def rows_of(rollouts: Rollouts, rows: Any) -> Rollouts:
    """Return some of the completions, in an order."""
    values: dict[str, Any] = {f.name: getattr(rollouts, f.name) for f in dataclasses.fields(rollouts)}
    kept: dict[str, Any] = {name: None if value is None else value[rows] for name, value in values.items()}
    return Rollouts(**kept)


def value_and_gradient(
    rollouts: Rollouts, config: PolicyConfig, totals: StepTotals | None = None
) -> tuple[float, Tensor]:
    found = policy_loss(rollouts, config, totals).loss
    (gradient,) = torch.autograd.grad(found, rollouts.log_probs_BT)
    return found.item(), gradient


@pytest.mark.parametrize("name", NAMES)
def test_masked_positions_have_no_influence_even_where_they_are_nan(name: AlgorithmName) -> None:
    plain, config = made(), ALGORITHMS[name]
    correction = torch.linspace(0.8, 1.2, B * T, dtype=torch.float64).view(B, T)
    plain = dataclasses.replace(plain, correction=correction, advantages=plain.advantages[:, None].expand(B, T))
    spoilt = {}
    for field in (f.name for f in dataclasses.fields(plain) if f.name != "mask_BT"):
        spoilt[field] = getattr(plain, field).detach().masked_fill(~plain.mask_BT, torch.nan)
    spoilt["log_probs_BT"].requires_grad_()
    expected, found = (
        value_and_gradient(rollouts, config) for rollouts in (plain, dataclasses.replace(plain, **spoilt))
    )
    assert found[0] == expected[0] and torch.equal(found[1], expected[1])
    assert not found[1][~plain.mask_BT].any() and found[1][plain.mask_BT].any()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_completions_does_not_matter(name: AlgorithmName) -> None:
    plain, order = made(1), torch.tensor([4, 2, 0, 5, 1, 3])
    moved = rows_of(plain, order)
    assert policy_loss(moved, ALGORITHMS[name]).loss.item() == pytest.approx(
        policy_loss(plain, ALGORITHMS[name]).loss.item(), rel=1e-12
    )


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"bnpo"}))
def test_losses_and_gradients_of_micro_batches_add_up_to_those_of_the_step(name: AlgorithmName) -> None:
    whole, config = made(2), ALGORITHMS[name]
    totals = StepTotals(n_tokens=whole.mask_BT.sum(), n_sequences=B)
    expected = value_and_gradient(whole, config)
    parts = []
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        part = rows_of(whole, rows)
        found = policy_loss(part, config, totals).loss
        parts.append((found.item(), torch.autograd.grad(found, whole.log_probs_BT)[0]))
    assert sum(value for value, _ in parts) == pytest.approx(expected[0], rel=1e-12)
    assert torch.allclose(sum(gradient for _, gradient in parts), expected[1])  # pyright: ignore


def test_the_token_mean_of_micro_batches_is_not_that_of_the_step() -> None:
    whole, config = made(2), ALGORITHMS["bnpo"]
    sizes = [
        policy_loss(rows_of(whole, rows), config, StepTotals(0, B)).loss.item()
        for rows in (slice(0, 2), slice(2, 6))
    ]
    lone = [policy_loss(rows_of(whole, rows), config).loss.item() for rows in (slice(0, 2), slice(2, 6))]
    assert sum(sizes) == pytest.approx((2 * lone[0] + 4 * lone[1]) / 6)
    assert sum(sizes) != pytest.approx(policy_loss(whole, config).loss.item(), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_on_policy_every_gradient_is_the_advantages(name: AlgorithmName) -> None:
    """Whatever the surrogate, at ratio 1 it is -A times a positive number that depends on the completion only."""
    rollouts = dataclasses.replace(made(3), old_log_probs_BT=None)
    config = ALGORITHMS[name].model_copy(update={"kl": KlTerm()})
    _, gradient = value_and_gradient(rollouts, config)
    share = -gradient / rollouts.advantages[:, None]
    assert (share[rollouts.mask_BT] > 0).all()
    for row, mask in zip(share, rollouts.mask_BT, strict=True):
        assert torch.allclose(row[mask], row[mask][0])


def test_an_old_policy_that_is_not_given_is_the_policy_itself() -> None:
    rollouts = made(4)
    same = dataclasses.replace(rollouts, old_log_probs_BT=rollouts.log_probs_BT.detach())
    none = dataclasses.replace(rollouts, old_log_probs_BT=None)
    for name in NAMES:
        expected, found = value_and_gradient(same, ALGORITHMS[name]), value_and_gradient(none, ALGORITHMS[name])
        assert found[0] == expected[0] and torch.equal(found[1], expected[1])


def test_delta_is_the_c_of_dual_clip() -> None:
    """Dual clip: for negative A the clipped loss is at most -A c; written out here, with its gradient."""
    signs = torch.tensor([1.0, -1.0, 2.0, -2.0, 0.5, -0.5], dtype=torch.float64)
    rollouts = dataclasses.replace(made(6, spread=3.0), advantages=signs)
    c = 3.0

    def dual(log_probs: Tensor) -> Tensor:
        assert rollouts.old_log_probs_BT is not None
        r, A = (log_probs - rollouts.old_log_probs_BT).exp(), rollouts.advantages[:, None]
        clipped = torch.max(-r * A, -r.clamp(0.8, 1.2) * A)
        token = torch.where(A < 0, torch.min(-A * c, clipped), clipped)
        return (token * rollouts.mask_BT).sum() / rollouts.mask_BT.sum()

    config = PolicyConfig(surrogate=Clip(delta=c), aggregation="token_mean")
    found = value_and_gradient(rollouts, config)
    expected = dual(rollouts.log_probs_BT)
    (gradient,) = torch.autograd.grad(expected, rollouts.log_probs_BT)
    assert found[0] == pytest.approx(expected.item(), rel=1e-12) and torch.allclose(found[1], gradient)
    without = value_and_gradient(rollouts, PolicyConfig(aggregation="token_mean"))
    assert without[0] > found[0]  # it does hold something here


def test_what_was_clipped_has_no_gradient_and_is_counted() -> None:
    rollouts = made(7, spread=0.8)
    assert rollouts.old_log_probs_BT is not None
    r, A = (rollouts.log_probs_BT - rollouts.old_log_probs_BT).exp().detach(), rollouts.advantages[:, None]
    high, low = (r > 1.28) & (A > 0) & rollouts.mask_BT, (r < 0.8) & (A < 0) & rollouts.mask_BT
    assert high.any() and low.any()
    metrics = policy_loss(rollouts, ALGORITHMS["dapo"]).metrics
    n = rollouts.mask_BT.sum()
    assert metrics["clip_ratio/high_mean"].item() == pytest.approx((high.sum() / n).item())
    assert metrics["clip_ratio/low_mean"].item() == pytest.approx((low.sum() / n).item())
    _, gradient = value_and_gradient(rollouts, ALGORITHMS["dapo"])
    assert not gradient[high | low].any() and gradient[rollouts.mask_BT & ~(high | low)].all()


def test_cispo_leaves_every_token_a_gradient() -> None:
    rollouts = made(7, spread=3.0)
    _, gradient = value_and_gradient(rollouts, ALGORITHMS["cispo"])
    assert gradient[rollouts.mask_BT].all()
    assert rollouts.old_log_probs_BT is not None
    r = (rollouts.log_probs_BT - rollouts.old_log_probs_BT).exp().detach()
    assert (r[rollouts.mask_BT] > 5).any()
    expected = -r.clamp(max=5) * rollouts.advantages[:, None] * rollouts.mask_BT / rollouts.mask_BT.sum()
    assert torch.allclose(gradient, expected)


def test_vespo_takes_the_samplers_ratio_into_the_sequence_weight() -> None:
    """As if the sampler had been the old policy: w is the ratio of the policy to what sampled."""
    rollouts = made(8, spread=0.05)
    assert rollouts.old_log_probs_BT is not None
    sampler = rollouts.old_log_probs_BT + 0.1
    ratio = (rollouts.old_log_probs_BT - sampler).exp()
    config = PolicyConfig(surrogate=Vespo(), aggregation="token_mean")
    direct = value_and_gradient(dataclasses.replace(rollouts, old_log_probs_BT=sampler), config)
    by_token = value_and_gradient(dataclasses.replace(rollouts, correction=ratio), config)
    sums = (ratio.log() * rollouts.mask_BT).sum(-1, keepdim=True).exp()
    by_sequence = value_and_gradient(dataclasses.replace(rollouts, correction=sums), config)
    for found in (by_token, by_sequence):
        assert found[0] == pytest.approx(direct[0], rel=1e-12) and torch.allclose(found[1], direct[1])


def test_advantages_by_token_are_read_token_by_token() -> None:
    rollouts = made(9)
    spread = dataclasses.replace(rollouts, advantages=rollouts.advantages[:, None].expand(B, T).clone())
    expected, found = (value_and_gradient(r, ALGORITHMS["ppo"]) for r in (rollouts, spread))
    assert found[0] == expected[0] and torch.equal(found[1], expected[1])


def test_a_kl_term_needs_a_reference() -> None:
    with pytest.raises(UserError, match="ref_log_probs_BT"):
        policy_loss(dataclasses.replace(made(), ref_log_probs_BT=None), ALGORITHMS["grpo"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"kl": {"estimator": "k1"}}, "mean zero"),
        ({"kl": {"place": "reward"}}, "set estimator = 'k1'"),
        ({"surrogate": {"name": "clip", "delta": 1.1}}, "inside the clip"),
        ({"surrogate": {"name": "vespo"}, "ratio": "sequence_mean"}, "token ratios"),
        ({"surrogate": {"name": "clipp"}}, "clip"),
        ({"aggregation": "mean"}, "sequence_mean"),
    ],
)
def test_configurations_that_cannot_be_say_why(content: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PolicyConfig.model_validate(content)


# Gradients of KL estimators, by summing over a whole vocabulary instead of sampling it.

V = 5


def distributions() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 0.5 * torch.randn(2, V, generator=generator, dtype=torch.float64)  # nothing is clamped
    return logits[0].requires_grad_(), torch.log_softmax(logits[1], -1)


def kl_gradient(logits: Tensor, log_ref: Tensor, *, reverse: bool = True) -> Tensor:
    log_p = torch.log_softmax(logits, -1)
    kl = (log_p.exp() * (log_p - log_ref)).sum() if reverse else (log_ref.exp() * (log_ref - log_p)).sum()
    return torch.autograd.grad(kl, logits)[0]


def expected_gradient(
    estimator: KlEstimator, *, corrected: bool = False, sampled_by: Tensor | None = None
) -> Tensor:
    """Return the mean over what may be sampled of the gradient of the term in the loss."""
    logits, log_ref = distributions()
    log_p = torch.log_softmax(logits, -1)
    log_mu = log_p.detach() if sampled_by is None else sampled_by
    term = kl_estimate(log_p, log_ref, estimator)
    term = term * (log_p - log_mu).exp() if corrected else term
    return torch.autograd.grad((log_mu.exp() * term).sum(), logits)[0]


def test_as_a_loss_k1_has_a_gradient_of_zero_mean() -> None:
    assert torch.allclose(expected_gradient("k1"), torch.zeros(V, dtype=torch.float64), atol=1e-14)


def test_as_a_loss_k2_has_the_gradient_of_the_kl() -> None:
    assert torch.allclose(expected_gradient("k2"), kl_gradient(*distributions()))


def test_as_a_loss_k3_has_the_gradient_of_the_other_kl() -> None:
    assert torch.allclose(expected_gradient("k3"), kl_gradient(*distributions(), reverse=False))
    assert not torch.allclose(expected_gradient("k3"), kl_gradient(*distributions()), atol=1e-2)


def test_importance_corrected_k3_has_the_gradient_of_the_kl_whoever_sampled() -> None:
    sampler = torch.log_softmax(torch.linspace(-1, 1, V, dtype=torch.float64), -1)
    for sampled_by in (None, sampler):
        found = expected_gradient("k3", corrected=True, sampled_by=sampled_by)
        assert torch.allclose(found, kl_gradient(*distributions()))


def test_k1_and_k3_are_unbiased_values() -> None:
    logits, log_ref = distributions()
    log_p = torch.log_softmax(logits.detach(), -1)
    exact = (log_p.exp() * (log_p - log_ref)).sum().item()
    for estimator in ("k1", "k3"):
        assert (log_p.exp() * kl_estimate(log_p, log_ref, estimator)).sum().item() == pytest.approx(exact)


def test_the_correction_of_the_kl_term_is_the_policys_ratio_with_its_gradient() -> None:
    rollouts = made(10)
    assert rollouts.old_log_probs_BT is not None and rollouts.ref_log_probs_BT is not None
    corrected = PolicyConfig(kl=KlTerm(coefficient=0.5, importance_corrected=True), aggregation="token_mean")
    bare = PolicyConfig(aggregation="token_mean")
    term = policy_loss(rollouts, corrected).loss - policy_loss(rollouts, bare).loss
    r = (rollouts.log_probs_BT - rollouts.old_log_probs_BT).exp()
    k3 = kl_estimate(rollouts.log_probs_BT, rollouts.ref_log_probs_BT)
    expected = 0.5 * (r * k3)[rollouts.mask_BT].mean()
    assert term.item() == pytest.approx(expected.item())
    one, other = (torch.autograd.grad(x, rollouts.log_probs_BT)[0] for x in (term, expected))
    assert torch.allclose(one, other)
