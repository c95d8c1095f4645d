"""Every named algorithm on one fixed rollout that the policy has left: its paper's gradient, and no other one's.

The references are written from the papers, reply by reply and token by token, and share nothing with the library
but the numbers of the rollout. TRL's losses are compared in `test_policy_parity`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from itertools import combinations

import pytest
import torch
from torch import Tensor

from evals.post_training.off_policy_gradients.fixed_rollout import (
    LENGTHS,
    MAX_COMPLETION_TOKENS,
    REWARDS,
    G,
    P,
    algorithm_gradient,
    fixed_rollout,
)
from evals.post_training.off_policy_gradients.table import rows
from modelstack.reasoning.losses.algorithms import ALGORITHMS, AlgorithmName

ROLLOUT = fixed_rollout()
N_TOKENS = sum(LENGTHS)
REPLIES = range(P * G)


def tokens(reply: int) -> range:
    return range(LENGTHS[reply])


def group(reply: int) -> list[int]:
    first = reply // G * G
    return list(range(first, first + G))


def normalised(reply: int) -> float:
    own = [REWARDS[other] for other in group(reply)]
    return (REWARDS[reply] - statistics.fmean(own)) / (statistics.stdev(own) + 1e-4)


def centred(reply: int) -> float:
    return REWARDS[reply] - statistics.fmean(REWARDS[other] for other in group(reply))


def ratio(new: Tensor, reply: int, token: int) -> Tensor:
    return torch.exp(new[reply, token] - ROLLOUT.old_BT[reply, token])


def log_ratio_sum(new: Tensor, reply: int) -> Tensor:
    return sum((new[reply, t] - ROLLOUT.old_BT[reply, t] for t in tokens(reply)), new.new_zeros(()))


def clipped(r: Tensor, A: float, low: float, high: float) -> Tensor:
    """Return min(r A, clip(r, 1 - low, 1 + high) A), as all of the clipping papers write it."""
    return torch.minimum(r * A, torch.clamp(r, 1 - low, 1 + high) * A)


def grpo(new: Tensor) -> Tensor:
    """DeepSeekMath: beta D_KL inside the mean of a reply's tokens."""
    objective = new.new_zeros(())
    for i in REPLIES:
        for t in tokens(i):
            to_ref = ROLLOUT.ref_BT[i, t] - new[i, t]
            k3 = torch.exp(to_ref) - to_ref - 1
            term = clipped(ratio(new, i, t), normalised(i), 0.2, 0.2) - 0.04 * k3
            objective = objective + term / LENGTHS[i] / len(REPLIES)
    return -objective


def bnpo(new: Tensor) -> Tensor:
    """TRL: tokens divided by those of the local batch, a prompt's replies."""
    objective = new.new_zeros(())
    for i in REPLIES:
        n_here = sum(LENGTHS[other] for other in group(i))
        for t in tokens(i):
            objective = objective + clipped(ratio(new, i, t), normalised(i), 0.2, 0.2) / n_here / P
    return -objective


def dapo(new: Tensor) -> Tensor:
    """DAPO: one divisor for all tokens, a higher upper clip."""
    terms = [clipped(ratio(new, i, t), normalised(i), 0.2, 0.28) for i in REPLIES for t in tokens(i)]
    return -torch.stack(terms).sum() / N_TOKENS


def dr_grpo(new: Tensor) -> Tensor:
    """Dr. GRPO: neither the deviation nor the length; a constant in its place."""
    terms = [clipped(ratio(new, i, t), centred(i), 0.2, 0.2) for i in REPLIES for t in tokens(i)]
    return -torch.stack(terms).sum() / (len(REPLIES) * MAX_COMPLETION_TOKENS)


def gspo(new: Tensor) -> Tensor:
    """GSPO: s = (pi / pi_old)^(1 / |y|)."""
    objective = new.new_zeros(())
    for i in REPLIES:
        s = torch.exp(log_ratio_sum(new, i) / LENGTHS[i])
        objective = objective + clipped(s, normalised(i), 3e-4, 4e-4) / len(REPLIES)
    return -objective


def cispo(new: Tensor) -> Tensor:
    """MiniMax-M1: sg(clipped weight) times A log pi."""
    terms = [min(ratio(new, i, t).item(), 5.0) * normalised(i) * new[i, t] for i in REPLIES for t in tokens(i)]
    return -torch.stack(terms).sum() / N_TOKENS


def sapo(new: Tensor) -> Tensor:
    """SAPO: f(r) = 4 / tau sigmoid(tau (r - 1)), tau 1 for positive advantages and 1.05 for others."""
    objective = new.new_zeros(())
    for i in REPLIES:
        A = normalised(i)
        tau = 1.0 if A > 0 else 1.05
        for t in tokens(i):
            gate = 4 / tau / (1 + torch.exp(-tau * (ratio(new, i, t) - 1)))
            objective = objective + gate * A / LENGTHS[i] / len(REPLIES)
    return -objective


def vespo(new: Tensor) -> Tensor:
    """VESPO: sg(w^k e^(lambda (1 - w))) of the whole reply's ratio w, (k, lambda) by the sign of A."""
    terms: list[Tensor] = []
    for i in REPLIES:
        A = normalised(i)
        k, lam = (2.0, 3.0) if A >= 0 else (3.0, 2.0)
        w = math.exp(log_ratio_sum(new, i).item())
        terms += [w**k * math.exp(lam * (1 - w)) * A * new[i, t] for t in tokens(i)]
    return -torch.stack(terms).sum() / N_TOKENS


def luspo(new: Tensor) -> Tensor:
    """LUSPO: GSPO's term of a reply times its length."""
    objective = new.new_zeros(())
    for i in REPLIES:
        s = torch.exp(log_ratio_sum(new, i) / LENGTHS[i])
        objective = objective + LENGTHS[i] * clipped(s, normalised(i), 3e-4, 4e-4) / len(REPLIES)
    return -objective


def rloo(new: Tensor) -> Tensor:
    """RLOO: R - beta log(pi_old / pi_ref) of the reply, less the mean of the others'; a reply is one action."""

    def paid(i: int) -> float:
        kl = sum((ROLLOUT.old_BT[i, t] - ROLLOUT.ref_BT[i, t]).item() for t in tokens(i))
        return REWARDS[i] - 0.05 * kl

    objective = new.new_zeros(())
    for i in REPLIES:
        A = paid(i) - statistics.fmean(paid(other) for other in group(i) if other != i)
        objective = objective + clipped(torch.exp(log_ratio_sum(new, i)), A, 0.2, 0.2) / len(REPLIES)
    return -objective


def reinforce(new: Tensor) -> Tensor:
    """REINFORCE with the group's mean as baseline: A log pi."""
    return -torch.stack([centred(i) * new[i, t] for i in REPLIES for t in tokens(i)]).sum() / N_TOKENS


def prime_rl(new: Tensor) -> Tensor:
    """prime-rl: ratios to the sampler; a token is dropped where p - mu has left 0.2 on the advantage's side."""
    terms: list[Tensor] = []
    for i in REPLIES:
        A = centred(i)
        for t in tokens(i):
            log_r = new[i, t] - ROLLOUT.sampler_BT[i, t]
            moved = math.exp(new[i, t].item()) - math.exp(ROLLOUT.sampler_BT[i, t].item())
            is_dropped = moved > 0.2 if A > 0 else moved < -0.2
            terms.append((0.0 if is_dropped else 1.0) * A * torch.exp(log_r) - 1e-3 * log_r**2)
    return -torch.stack(terms).sum() / N_TOKENS


def ppo(new: Tensor) -> Tensor:
    """PPO with generalised advantages (gamma 1, lambda 0.95), whitened over the batch; the reward at the end."""
    advantages: dict[tuple[int, int], float] = {}
    for i in REPLIES:
        last = LENGTHS[i] - 1
        following, next_value = 0.0, 0.0
        for t in reversed(tokens(i)):
            value = ROLLOUT.values_BT[i, t].item()
            following = (REWARDS[i] if t == last else 0.0) + next_value - value + 0.95 * following
            next_value = value
            advantages[i, t] = following
    mean, variance = statistics.fmean(advantages.values()), statistics.variance(advantages.values())
    terms = [
        clipped(ratio(new, i, t), (A - mean) / math.sqrt(variance + 1e-8), 0.2, 0.2)
        for (i, t), A in advantages.items()
    ]
    return -torch.stack(terms).sum() / N_TOKENS


REFERENCES: dict[AlgorithmName, Callable[[Tensor], Tensor]] = {
    "grpo": grpo,
    "bnpo": bnpo,
    "dapo": dapo,
    "dr_grpo": dr_grpo,
    "gspo": gspo,
    "cispo": cispo,
    "sapo": sapo,
    "vespo": vespo,
    "luspo": luspo,
    "rloo": rloo,
    "reinforce": reinforce,
    "prime_rl": prime_rl,
    "ppo": ppo,
}


def test_every_algorithm_has_a_reference() -> None:
    assert REFERENCES.keys() == ALGORITHMS.keys()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_off_policy_the_gradient_is_that_of_the_papers_formula(name: AlgorithmName) -> None:
    new = ROLLOUT.new_BT.clone().requires_grad_()
    (expected,) = torch.autograd.grad(REFERENCES[name](new), new)
    found = algorithm_gradient(ROLLOUT, ALGORITHMS[name])
    assert expected.any() and torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def directions(*, on_policy: bool) -> Iterator[tuple[str, str, float]]:
    found = {name: algorithm_gradient(ROLLOUT, config, on_policy=on_policy) for name, config in ALGORITHMS.items()}
    for one, other in combinations(found, 2):
        a, b = found[one], found[other]
        yield one, other, float((a * b).sum() / (a.norm() * b.norm()))


def test_off_policy_no_two_algorithms_have_gradients_in_the_same_direction() -> None:
    alike = [(one, other, cosine) for one, other, cosine in directions(on_policy=False) if cosine > 0.999]
    assert not alike


def test_on_policy_many_do_which_is_why_several_steps_are_taken_on_a_rollout() -> None:
    alike = {(one, other) for one, other, cosine in directions(on_policy=True) if cosine > 0.999}
    assert {("grpo", "gspo"), ("dapo", "cispo"), ("dapo", "vespo"), ("dr_grpo", "reinforce")} <= alike


def test_the_printed_table_has_a_row_for_each_algorithm_and_says_where_it_differs() -> None:
    found = {row.name: row for row in rows()}
    assert list(found) == list(ALGORITHMS)
    assert found["grpo"].cosine == pytest.approx(1) and found["grpo"].differs == "-"
    assert found["dapo"].differs == "epsilon_high 0.28; aggregation token_mean; kl none"
    assert all(row.differs != "-" and row.cosine < 0.999 for name, row in found.items() if name != "grpo")
