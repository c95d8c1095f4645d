"""A prompt that is read once for all its replies: loss and gradients as if each reply had read its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.reasoning.losses.algorithms import ALGORITHMS
from modelstack.reasoning.losses.sampler_correction import SamplerCorrection
from modelstack.reasoning.policy.log_probs import PolicyLogProbs
from modelstack.reasoning.policy.passes import PolicyPasses
from modelstack.reasoning.policy.rollout_batch import RolloutBatch
from modelstack.reasoning.rollouts.reference import Reference
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Item, Reward
from tests.modelstack.architecture.count_cases import toy, variants

PROMPT, LENGTHS = 7, (5, 3, 6, 1)
MODELS = {
    "grouped": toy("llama"),
    "windows": toy("gemma3_text"),
    "sinks": toy("gpt_oss"),
    "compressed": toy("deepseek_v4", num_nextn_predict_layers=0),
    "latent": toy("deepseek_v3", num_nextn_predict_layers=0),
    "delta net": variants()["gated deltanet"],
    "hyper-connections": variants()["hyper-connections"],
}


def batch(n_shared: int, vocab_size: int) -> RolloutBatch:
    generator = torch.Generator().manual_seed(0)
    T = PROMPT - 1 + max(LENGTHS)
    ids_GT = torch.randint(1, vocab_size, (len(LENGTHS), T), generator=generator)
    ids_GT[:, :PROMPT] = ids_GT[0, :PROMPT]
    labels_GT = torch.full_like(ids_GT, IGNORED)
    for row, n in enumerate(LENGTHS):
        labels_GT[row, PROMPT - 1 : PROMPT - 1 + n] = torch.randint(1, vocab_size, (n,), generator=generator)
    sampler_GT = torch.randn(ids_GT.shape, generator=generator).mul(0.3).sub(3.0).where(labels_GT != IGNORED, 0.0)
    return RolloutBatch(
        ids_GT,
        labels_GT,
        torch.zeros_like(ids_GT),
        0,
        advantages_G=torch.tensor([1.0, -0.5, 0.3, -0.8]),
        sampler_log_probs_GT=sampler_GT,
        n_shared=n_shared,
        legal_P=None,
        task=PolicyTask(Item("t", ""), ()),
        replies=("",) * len(LENGTHS),
        rewards=tuple(Reward(value) for value in (1.0, 0.2, 0.6, 0.0)),
        is_truncated=(False,) * len(LENGTHS),
        n_tries=1,
        tried_rewards=(1.0, 0.2, 0.6, 0.0),
    )


def gradients(
    model: CausalLM, n_shared: int, **changes: Any
) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    model.zero_grad(set_to_none=True)
    log_probs = PolicyLogProbs(model, 0.8, Reference(model))
    passes = PolicyPasses(log_probs, ALGORITHMS["dapo"], **changes)
    one = log_probs.at_rollout(batch(n_shared, model.config.vocab_size), with_old=False)
    loss = passes.backward([one], float((one.labels_BT != IGNORED).sum()))["policy"]
    return loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, passes.metrics


@pytest.mark.parametrize("name", list(MODELS))
def test_gradients_are_those_of_replies_that_read_their_own_prompt(name: str) -> None:
    torch.manual_seed(0)
    model = CausalLM(MODELS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    apart_loss, apart, _ = gradients(model, 0)
    loss, shared, metrics = gradients(model, PROMPT - 1)
    assert loss == pytest.approx(apart_loss, abs=1e-5)
    assert shared.keys() == apart.keys()
    for parameter, gradient in apart.items():
        torch.testing.assert_close(shared[parameter], gradient, rtol=1e-3, atol=2e-5, msg=parameter)
    assert any(bool(gradient.abs().max() > 1e-3) for gradient in apart.values())
    assert metrics["kl_to_start"] == pytest.approx(0, abs=1e-6)


def test_replies_of_another_engine_are_weighted() -> None:
    torch.manual_seed(0)
    model = CausalLM(MODELS["grouped"])
    _, plain, metrics = gradients(model, PROMPT - 1)
    assert "correction/mean" not in metrics and metrics["sampler_gap/kl"] > 0
    _, capped, metrics = gradients(
        model, PROMPT - 1, correction=SamplerCorrection(name="token_truncate", high=2.0)
    )
    assert 0 < metrics["correction/mean"] < 2 and metrics["correction/dropped"] == 0
    assert any(not torch.allclose(capped[name], gradient, atol=1e-4) for name, gradient in plain.items())
    # Nobody's ratio is that small: all are dropped, and nothing is learnt.
    _, dropped, metrics = gradients(model, PROMPT - 1, correction=SamplerCorrection(name="token_mask", high=1e-6))
    assert metrics["correction/dropped"] == 1.0
    assert all(not gradient.any() for gradient in dropped.values())


def test_replies_that_are_worth_the_same_are_looked_at_and_not_learnt() -> None:
    torch.manual_seed(0)
    model = CausalLM(MODELS["grouped"])
    passes = PolicyPasses(PolicyLogProbs(model, 0.8, None), ALGORITHMS["dapo"])
    equal = dataclasses.replace(batch(PROMPT - 1, model.config.vocab_size), rewards=(Reward(0.5),) * len(LENGTHS))
    assert passes.backward([equal], 15.0) and passes.metrics["entropy"] > 0
    assert all(parameter.grad is None for parameter in model.parameters())
