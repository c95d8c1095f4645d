"""Log-probabilities under masks: equal to a dense softmax over the legal tokens, gradient and statistics too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modelstack.architecture.losses import IGNORED
from modelstack.errors import UserError
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.preferences.log_probs import label_log_probs
from modelstack.reasoning.losses.masked_log_probs import masked_label_log_probs

B, T, D, V = 3, 7, 8, 50
N_TOKENS = 45
"""The vocabulary's; the head has rows behind its end."""


class Case:
    """Hidden states, a head, labels, and sets of both forms at some places."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(7)
        self.hidden_BTD = torch.randn(B, T, D, generator=generator, dtype=dtype).requires_grad_()
        self.head = nn.Linear(D, V, bias=False, dtype=dtype)
        with torch.no_grad():
            self.head.weight.normal_(generator=generator)
        draw = np.random.default_rng(3)
        self.labels_BT = torch.full((B, T), IGNORED)
        self.legal_P: list[LegalTokens | None] = []
        self.is_legal_BTV = torch.ones(B, T, V, dtype=torch.bool)
        for place in [(b, t) for b in range(B) for t in range(T) if (b + t) % 4]:
            ids = np.sort(draw.choice(N_TOKENS, draw.integers(1, 30), replace=False))
            self.labels_BT[place] = int(draw.choice(ids))
            form = sum(place) % 3
            if form == 0:
                self.legal_P.append(None)
                continue
            flags = np.isin(np.arange(N_TOKENS), ids)
            self.legal_P.append(LegalTokens.from_ids(ids) if form == 1 else LegalTokens.from_flags(flags))
            self.is_legal_BTV[place] = torch.isin(torch.arange(V), torch.from_numpy(ids))

    def dense(self, temperature: float) -> Tensor:
        """Return the logs of the softmax over the legal tokens, [B, T, V], with all of them at once."""
        logits = self.head(self.hidden_BTD).float() / temperature
        return logits.masked_fill(~self.is_legal_BTV, -torch.inf).log_softmax(-1)


@pytest.mark.parametrize("tokens_per_chunk", [1000, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_and_gradient_equal_those_of_a_dense_softmax(
    temperature: float, tokens_per_chunk: int
) -> None:
    case = Case()
    found = masked_label_log_probs(
        case.hidden_BTD,
        case.labels_BT,
        case.head,
        case.legal_P,
        temperature=temperature,
        with_statistics=True,
        tokens_per_chunk=tokens_per_chunk,
    )
    is_label = case.labels_BT != IGNORED
    log_p_BTV = case.dense(temperature)
    wanted = log_p_BTV.gather(-1, case.labels_BT.where(is_label, 0)[..., None])[..., 0][is_label]
    torch.testing.assert_close(found.log_probs_BT[is_label], wanted)
    assert not found.log_probs_BT[~is_label].any()
    weights = torch.linspace(-1, 2, len(wanted))
    parameters = [case.hidden_BTD, case.head.weight]
    ours = torch.autograd.grad((found.log_probs_BT[is_label] * weights).sum(), parameters)
    for one, other in zip(ours, torch.autograd.grad((wanted * weights).sum(), parameters), strict=True):
        torch.testing.assert_close(one, other)
    p = log_p_BTV.exp()
    assert found.entropy_BT is not None and found.log_collision_BT is not None
    torch.testing.assert_close(found.entropy_BT[is_label], torch.special.entr(p).sum(-1)[is_label])
    torch.testing.assert_close(found.log_collision_BT[is_label], (p * p).sum(-1).log()[is_label])


def test_illegal_tokens_get_no_gradient_at_all() -> None:
    case = Case()
    found = masked_label_log_probs(case.hidden_BTD, case.labels_BT, case.head, case.legal_P)
    n_legal_BT = case.is_legal_BTV.sum(-1)
    place = tuple(((n_legal_BT > 1) & (n_legal_BT < V)).nonzero()[0].tolist())
    (gradient,) = torch.autograd.grad(found.log_probs_BT[place], case.head.weight)
    is_illegal = ~case.is_legal_BTV[place]
    assert is_illegal.any() and not gradient[is_illegal].any()
    assert gradient[~is_illegal].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("tokens_per_chunk", [1000, 4])
def test_without_a_set_it_is_label_log_probs_to_the_bit(
    dtype: torch.dtype, given: bool, tokens_per_chunk: int
) -> None:
    case = Case(dtype)
    options = {"temperature": 0.8, "with_statistics": True, "tokens_per_chunk": tokens_per_chunk}
    plain = label_log_probs(case.hidden_BTD, case.labels_BT, case.head, **options)
    legal_P = [None] * len(case.legal_P) if given else None
    masked = masked_label_log_probs(case.hidden_BTD, case.labels_BT, case.head, legal_P, **options)
    for name in ("log_probs_BT", "is_label_BT", "entropy_BT", "log_collision_BT"):
        assert torch.equal(getattr(plain, name), getattr(masked, name))


def test_a_place_without_a_set_is_the_same_beside_places_with_one() -> None:
    case = Case()
    plain = label_log_probs(case.hidden_BTD, case.labels_BT, case.head, with_statistics=True)
    masked = masked_label_log_probs(case.hidden_BTD, case.labels_BT, case.head, case.legal_P, with_statistics=True)
    free = case.is_legal_BTV.all(-1) & masked.is_label_BT
    bound = ~case.is_legal_BTV.all(-1) & masked.is_label_BT
    assert plain.entropy_BT is not None and masked.entropy_BT is not None
    assert free.any() and torch.equal(plain.log_probs_BT[free], masked.log_probs_BT[free])
    assert torch.equal(plain.entropy_BT[free], masked.entropy_BT[free])
    assert (masked.log_probs_BT > plain.log_probs_BT)[bound].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_stay_numbers(dtype: torch.dtype) -> None:
    case = Case(dtype)
    found = masked_label_log_probs(
        case.hidden_BTD, case.labels_BT, case.head, case.legal_P, temperature=0.3, with_statistics=True
    )
    is_label = found.is_label_BT
    wanted = case.dense(0.3).gather(-1, case.labels_BT.where(is_label, 0)[..., None])[..., 0]
    torch.testing.assert_close(found.log_probs_BT[is_label], wanted[is_label], atol=0.15, rtol=0.05)
    assert found.entropy_BT is not None and found.log_collision_BT is not None
    assert found.entropy_BT.isfinite().all() and found.log_collision_BT.isfinite().all()
    found.log_probs_BT.sum().backward()
    assert case.hidden_BTD.grad is not None and case.hidden_BTD.grad.isfinite().all()


def test_a_lone_legal_token_is_certain_and_teaches_nothing() -> None:
    case = Case()
    place = (0, 1)
    label = int(case.labels_BT[place])
    found = masked_label_log_probs(
        case.hidden_BTD,
        case.labels_BT,
        case.head,
        [LegalTokens.from_ids(np.array([label]))] + [None] * (len(case.legal_P) - 1),
        with_statistics=True,
    )
    assert float(found.log_probs_BT[place].detach()) == 0
    assert found.entropy_BT is not None and float(found.entropy_BT[place]) == 0
    (gradient,) = torch.autograd.grad(found.log_probs_BT[place], case.hidden_BTD)
    assert not gradient.any()


@pytest.mark.parametrize("form", ["ids", "flags"])
def test_labels_that_were_not_legal_are_refused(form: str) -> None:
    case = Case()
    ids = np.array([3, 9])
    case.legal_P[4] = (
        LegalTokens.from_ids(ids) if form == "ids" else LegalTokens.from_flags(np.isin(range(N_TOKENS), ids))
    )
    fifth = (case.labels_BT != IGNORED).nonzero()[4]
    case.labels_BT[tuple(fifth)] = V - 1
    with pytest.raises(UserError, match="label 49, number 5 of 16, is not among the 2 tokens"):
        masked_label_log_probs(case.hidden_BTD, case.labels_BT, case.head, case.legal_P)
    with pytest.raises(UserError, match="2 sets of legal tokens for 16 labels"):
        masked_label_log_probs(case.hidden_BTD, case.labels_BT, case.head, case.legal_P[:2])
