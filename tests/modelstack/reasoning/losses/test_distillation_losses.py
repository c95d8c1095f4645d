"""Distillation: divergences of whole and of stored distributions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.errors import UserError
from modelstack.reasoning.losses.distillation import (
    ClassicDistillationConfig,
    DistillationConfig,
    classic_distillation_loss,
    distillation_loss,
    generalised_jsd,
)
from modelstack.reasoning.losses.top_k_distillation import TopK, top_k_distillation_loss, top_k_of

N, V = 6, 11


def logits(seed: int) -> Tensor:
    return 2 * torch.randn(N, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kl(log_p: Tensor, log_q: Tensor) -> float:
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()


@pytest.mark.parametrize("temperature", [1.0, 0.9, 3.0])
def test_the_ends_are_the_two_kls(temperature: float) -> None:
    s, t = (torch.log_softmax(logits(seed) / temperature, -1) for seed in (0, 1))
    found = [
        distillation_loss(logits(0), logits(1), DistillationConfig(beta=beta, temperature=temperature)).loss.item()
        for beta in (0.0, 1.0)
    ]
    assert found == pytest.approx([kl(t, s), kl(s, t)])


def test_between_it_is_the_jensen_shannon_divergence_of_its_definition() -> None:
    s, t = (torch.log_softmax(logits(seed), -1) for seed in (0, 1))
    for beta in (0.1, 0.5, 0.9):
        m = (beta * t.exp() + (1 - beta) * s.exp()).log()
        expected = beta * kl(t, m) + (1 - beta) * kl(s, m)
        assert distillation_loss(logits(0), logits(1), DistillationConfig(beta=beta)).loss.item() == pytest.approx(
            expected
        )


def test_at_one_half_it_is_symmetric_and_below_log_two() -> None:
    one, other = (distillation_loss(logits(a), logits(b)).loss.item() for a, b in ((0, 1), (1, 0)))
    assert one == pytest.approx(other) and 0 < one < torch.log(torch.tensor(2.0)).item()
    apart = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])
    assert distillation_loss(*apart).loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item())


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_an_equal_teacher_costs_nothing_and_pulls_nowhere(beta: float) -> None:
    student = logits(0).requires_grad_()
    found = distillation_loss(student, logits(0), DistillationConfig(beta=beta))
    found.loss.backward()
    assert found.loss.item() == pytest.approx(0, abs=1e-12) and found.metrics["agreement"] == 1
    assert student.grad is not None and student.grad.abs().max() < 1e-12


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    distillation_loss(student, teacher).loss.backward()
    assert student.grad is not None and teacher.grad is None


def test_sums_are_divided_by_the_labels_of_the_step() -> None:
    whole = distillation_loss(logits(0), logits(1)).loss.item()
    parts = [
        distillation_loss(logits(0)[rows], logits(1)[rows], n_labels=N).loss.item()
        for rows in (slice(2), slice(2, N))
    ]
    assert sum(parts) == pytest.approx(whole)


def test_bf16_logits_are_compared_in_fp32() -> None:
    found = distillation_loss(logits(0).bfloat16(), logits(1).bfloat16()).loss
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(distillation_loss(logits(0), logits(1)).loss.item(), rel=0.02)


def test_classic_distillation_mixes_the_heated_kl_with_the_labels() -> None:
    labels = torch.arange(N)
    s, t = (torch.log_softmax(logits(seed) / 2, -1) for seed in (0, 1))
    expected = 0.7 * 4 * kl(t, s) + 0.3 * F.cross_entropy(logits(0), labels).item()
    config = ClassicDistillationConfig(alpha=0.7, temperature=2.0)
    assert classic_distillation_loss(logits(0), logits(1), labels, config).loss.item() == pytest.approx(expected)


def test_squared_temperature_keeps_gradients_as_large() -> None:
    """For high temperatures the gradient tends to that of half the squared difference of centred logits over V."""
    student, teacher = logits(0).requires_grad_(), logits(1)
    config = ClassicDistillationConfig(alpha=1.0, temperature=1e4)
    classic_distillation_loss(student, teacher, torch.zeros(N, dtype=torch.long), config).loss.backward()
    centred = [x - x.mean(-1, keepdim=True) for x in (student.detach(), teacher)]
    assert student.grad is not None
    assert torch.allclose(student.grad, (centred[0] - centred[1]) / V / N, atol=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_stored_teacher_costs_what_tokens_and_tail_say(beta: float) -> None:
    """By hand: all but the k likeliest of the teacher are one outcome."""
    k = 4
    stored = top_k_of(logits(1), k)
    s, t = (torch.log_softmax(logits(seed), -1).exp() for seed in (0, 1))

    def merged(p: Tensor) -> Tensor:
        kept = p.gather(-1, stored.token_ids_NK)
        return torch.cat((kept, 1 - kept.sum(-1, keepdim=True)), -1).log()

    expected = generalised_jsd(merged(s), merged(t), beta).mean().item()
    found = top_k_distillation_loss(logits(0), stored, beta)
    assert found.loss.item() == pytest.approx(expected)
    assert found.metrics["tail_mass"].item() == pytest.approx(merged(t).exp()[:, -1].mean().item())


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_stored_teacher_costs_less_than_the_whole_and_the_whole_where_all_is_stored(beta: float) -> None:
    whole = distillation_loss(logits(0), logits(1), DistillationConfig(beta=beta)).loss.item()
    costs = [
        top_k_distillation_loss(logits(0), top_k_of(logits(1), k), beta).loss.item() for k in (1, 3, 6, V - 1)
    ]
    assert costs == sorted(costs) and costs[0] < costs[1] and costs[-1] == pytest.approx(whole)
    student = logits(0).requires_grad_()
    everything = top_k_distillation_loss(student, top_k_of(logits(1), V), beta).loss
    everything.backward()
    assert everything.item() == pytest.approx(whole, abs=1e-9)
    assert student.grad is not None and student.grad.isfinite().all()


def test_gradients_of_a_stored_teacher_are_those_of_finite_differences() -> None:
    stored = top_k_of(logits(1), 3, temperature=2.0)
    assert torch.autograd.gradcheck(lambda x: top_k_distillation_loss(x, stored).loss, logits(0).requires_grad_())


def test_a_student_that_is_the_teacher_costs_nothing_at_any_k() -> None:
    for k in (1, 5, V):
        assert top_k_distillation_loss(logits(0), top_k_of(logits(0), k)).loss.item() == pytest.approx(
            0, abs=1e-12
        )


def test_stored_teachers_are_small_and_what_cannot_be_is_refused() -> None:
    stored = top_k_of(logits(1).bfloat16(), 3)
    assert isinstance(stored, TopK) and stored.log_probs_NK.dtype == torch.float32
    assert stored.token_ids_NK.shape == stored.log_probs_NK.shape == (N, 3)
    with pytest.raises(UserError, match="k is 12"):
        top_k_of(logits(1), V + 1)
    with pytest.raises(UserError, match="temperature is 0"):
        top_k_of(logits(1), 3, temperature=0)
