"""What must hold of preference losses whatever the numbers are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.architecture.losses import IGNORED
from modelstack.errors import UserError
from modelstack.preferences.direct import DIRECT_LOSSES, direct_loss
from modelstack.preferences.direct_config import DirectLossConfig
from modelstack.preferences.log_probs import LabelLogProbs, completion_labels, label_log_probs, summed
from modelstack.preferences.pair_weights import wpo_weights
from modelstack.preferences.pairs import Pairs, pairs_of

B, T, D, V = 4, 9, 8, 13


def made(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states [B, T, D], labels [B, T] of unequal completions, and a head's weight [V, D]."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(B, T, D, generator=generator)
    ids = torch.randint(V, (B, T), generator=generator)
    start, length = torch.tensor([2, 3, 1, 4]), torch.tensor([4, 2, 6, 1])
    place = torch.arange(T)
    is_completion = (place >= start[:, None]) & (place < (start + length)[:, None])
    return hidden, completion_labels(ids, is_completion), torch.randn(V, D, generator=generator)


def test_labels_are_shifted_once() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 0]])
    labels = completion_labels(ids, torch.tensor([[0, 0, 1, 1, 0]]))
    assert labels.tolist() == [[IGNORED, 7, 8, IGNORED, IGNORED]]


def test_a_first_token_has_nothing_before_it_that_could_name_it() -> None:
    labels = completion_labels(torch.tensor([[5, 6]]), torch.tensor([[True, True]]))
    assert labels.tolist() == [[6, IGNORED]]


@pytest.mark.parametrize("tokens_per_chunk", [3, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_statistics_and_gradients_are_those_of_all_logits(
    tokens_per_chunk: int, temperature: float
) -> None:
    hidden, labels, weight = made()
    mine, whole = (hidden.clone().requires_grad_() for _ in range(2))
    found = label_log_probs(
        mine,
        labels,
        lambda h: h @ weight.T,
        temperature=temperature,
        with_statistics=True,
        tokens_per_chunk=tokens_per_chunk,
    )
    log_p = torch.log_softmax(whole @ weight.T / temperature, dim=-1)
    is_label = labels != IGNORED
    expected = log_p.gather(-1, labels.where(is_label, 0)[..., None])[..., 0] * is_label
    assert torch.allclose(found.log_probs_BT, expected, atol=1e-6)
    assert found.entropy_BT is not None and found.log_collision_BT is not None
    assert torch.allclose(found.entropy_BT, -(log_p.exp() * log_p).sum(-1) * is_label, atol=1e-6)
    assert torch.allclose(found.log_collision_BT, log_p.exp().square().sum(-1).log() * is_label, atol=1e-6)
    assert not found.entropy_BT.requires_grad
    pull = torch.randn(B, T, generator=torch.Generator().manual_seed(1))
    (found.log_probs_BT * pull).sum().backward()
    (expected * pull).sum().backward()
    assert mine.grad is not None and whole.grad is not None
    assert torch.allclose(mine.grad, whole.grad, atol=1e-6)


def test_the_head_is_asked_for_labelled_tokens_alone() -> None:
    hidden, labels, weight = made()
    asked = []

    def head(hidden_ND: Tensor) -> Tensor:
        asked.append(len(hidden_ND))
        return hidden_ND @ weight.T

    label_log_probs(hidden, labels, head, tokens_per_chunk=5)
    assert sum(asked) == (labels != IGNORED).sum() == 13 and max(asked) <= 5


def test_rows_without_a_label_are_zero() -> None:
    hidden, labels, weight = made()
    found = label_log_probs(hidden, torch.full_like(labels, IGNORED), lambda h: h @ weight.T, with_statistics=True)
    assert found.log_probs_BT.shape == (B, T) and not found.log_probs_BT.any() and found.entropy_BT is not None


def test_a_temperature_of_zero_is_refused() -> None:
    hidden, labels, weight = made()
    with pytest.raises(UserError, match="temperature is 0"):
        label_log_probs(hidden, labels, lambda h: h @ weight.T, temperature=0.0)


def test_sums_of_bf16_are_fp32_and_do_not_see_what_is_masked() -> None:
    values = torch.full((1, 4096), -0.01, dtype=torch.bfloat16)
    mask = torch.ones(1, 4096, dtype=torch.bool)
    values[0, 7], mask[0, 7] = torch.nan, False
    exact = values.double().where(mask, 0).sum().item()
    assert summed(values, mask).item() == pytest.approx(exact, rel=1e-6)


def log_probs(seed: int = 0, statistics: bool = False) -> LabelLogProbs:
    hidden, labels, weight = made(seed)
    return label_log_probs(hidden, labels, lambda h: h @ weight.T, with_statistics=statistics)


def test_pairs_are_sums_over_completions() -> None:
    found, pairs = log_probs(), pairs_of(log_probs())
    assert torch.cat((pairs.chosen, pairs.rejected)).tolist() == pytest.approx(found.log_probs_BT.sum(-1).tolist())
    assert torch.cat((pairs.n_chosen, pairs.n_rejected)).tolist() == [4, 2, 6, 1]


def test_ld_dpo_leaves_out_only_what_is_longer_than_the_other_completion() -> None:
    found, none = log_probs(), pairs_of(log_probs(), ld_alpha=0.0)
    rows = [
        row[mask][:n] for row, mask, n in zip(found.log_probs_BT, found.is_label_BT, (4, 1, 4, 1), strict=True)
    ]
    expected = [row.sum().item() for row in rows]
    assert torch.cat((none.chosen, none.rejected)).tolist() == pytest.approx(expected)
    whole, plain = pairs_of(log_probs(), ld_alpha=1.0), pairs_of(log_probs())
    assert torch.equal(whole.chosen, plain.chosen) and torch.equal(whole.rejected, plain.rejected)


def test_an_odd_number_of_rows_or_an_alpha_outside_is_refused() -> None:
    found = log_probs()
    with pytest.raises(UserError, match="it needs an even number"):
        pairs_of(LabelLogProbs(found.log_probs_BT[:3], found.is_label_BT[:3]))
    with pytest.raises(UserError, match=r"ld_alpha is 1\.5"):
        pairs_of(found, ld_alpha=1.5)


def test_wpo_weighs_a_pair_by_the_policys_own_probability() -> None:
    found = log_probs(statistics=True)
    means = found.log_probs_BT.sum(-1) / found.is_label_BT.sum(-1)
    plain = wpo_weights(found, aligned=False)
    assert torch.allclose(plain, (means[:2] + means[2:]).exp()) and (plain < 1).all()
    assert not wpo_weights(found).requires_grad and not torch.allclose(plain, wpo_weights(found))
    with pytest.raises(UserError, match="with_statistics"):
        wpo_weights(log_probs())


def random_pairs(seed: int, n: int = 6) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    sums = -10 * torch.rand(2, n, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 9, (2, n), generator=generator)
    return Pairs(sums[0], sums[1], lengths[0], lengths[1])


def shuffled(pairs: Pairs, order: Tensor) -> Pairs:
    return Pairs(pairs.chosen[order], pairs.rejected[order], pairs.n_chosen[order], pairs.n_rejected[order])


def with_gradient(pairs: Pairs) -> Pairs:
    leaves = pairs.chosen.clone().requires_grad_(), pairs.rejected.clone().requires_grad_()
    return Pairs(*leaves, pairs.n_chosen, pairs.n_rejected)


def config_of(name: str, **more: Any) -> DirectLossConfig:
    return DirectLossConfig.model_validate({"losses": [{"name": name}], "label_smoothing": 0.1} | more)


@pytest.mark.parametrize("name", DIRECT_LOSSES)
def test_the_order_of_pairs_does_not_matter(name: str) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    policy, reference = random_pairs(0), random_pairs(1)
    moved = shuffled(policy, order), shuffled(reference, order)
    expected = direct_loss(policy, reference, config_of(name)).loss
    assert direct_loss(*moved, config_of(name)).loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", DIRECT_LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    policy, reference = random_pairs(2), random_pairs(3)

    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        return direct_loss(
            Pairs(chosen, rejected, policy.n_chosen, policy.n_rejected), reference, config_of(name)
        ).loss

    assert torch.autograd.gradcheck(loss, (policy.chosen.requires_grad_(), policy.rejected.requires_grad_()))


@pytest.mark.parametrize("name", sorted(set(DIRECT_LOSSES) - {"sft", "discopop"}))
def test_at_the_reference_every_loss_pulls_the_two_completions_apart(name: str) -> None:
    """And all but apo_down raise the chosen one, which leaves it where it is.

    DiscoPOP is left out: its loss is not convex and falls towards margins below 0 there, as its paper shows.
    """
    policy = with_gradient(random_pairs(4))
    reference = Pairs(policy.chosen.detach(), policy.rejected.detach(), policy.n_chosen, policy.n_rejected)
    direct_loss(policy, reference, config_of(name)).loss.backward()
    chosen, rejected = policy.chosen.grad, policy.rejected.grad
    assert chosen is not None and rejected is not None
    assert (rejected > 0).all() and (rejected > chosen).all()
    assert name == "apo_down" or (chosen < 0).all()


def test_the_reference_gets_no_gradient() -> None:
    policy, reference = with_gradient(random_pairs(5)), with_gradient(random_pairs(6))
    direct_loss(policy, reference).loss.backward()
    assert policy.chosen.grad is not None and reference.chosen.grad is None


def test_dpos_gradient_is_the_one_of_its_paper() -> None:
    """Equation 7: -beta sigmoid(-beta d) (grad log p(chosen) - grad log p(rejected))."""
    policy, reference = with_gradient(random_pairs(7)), random_pairs(8)
    direct_loss(policy, reference, DirectLossConfig(beta=0.3)).loss.backward()
    with torch.no_grad():
        d = policy.chosen - reference.chosen - policy.rejected + reference.rejected
        expected = -0.3 * torch.sigmoid(-0.3 * d) / len(d)
    assert policy.chosen.grad is not None and policy.rejected.grad is not None
    assert torch.allclose(policy.chosen.grad, expected) and torch.allclose(policy.rejected.grad, -expected)


def test_robust_dpo_is_unbiased_where_labels_are_flipped() -> None:
    """The expectation over flips of its loss is the loss of the true labels."""
    policy, reference = random_pairs(9), random_pairs(10)
    other, other_reference = (Pairs(p.rejected, p.chosen, p.n_rejected, p.n_chosen) for p in (policy, reference))
    config = config_of("robust", label_smoothing=0.2)
    noisy = (
        0.8 * direct_loss(policy, reference, config).loss + 0.2 * direct_loss(other, other_reference, config).loss
    )
    assert noisy.item() == pytest.approx(direct_loss(policy, reference).loss.item(), rel=1e-12)


def test_weights_count_pairs_and_are_refused_where_pairs_have_no_loss_of_their_own() -> None:
    policy, reference = random_pairs(11), random_pairs(12)
    weights = torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    found = direct_loss(policy, reference, weights_B=weights).loss
    d = (policy.chosen - reference.chosen - policy.rejected + reference.rejected)[0]
    assert found.item() == pytest.approx(-F.logsigmoid(0.1 * d).item() / 6)
    for name in ("aot", "aot_unpaired", "sft"):
        with pytest.raises(UserError, match=name):
            direct_loss(policy, reference, config_of(name), weights)
