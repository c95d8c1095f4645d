"""Several steps on one rollout: what is stored at sampling, in which order it is given, what a kill leaves."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.data.examples import Message
from modelstack.errors import UserError
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.reasoning.losses.algorithms import ALGORITHMS, AlgorithmName
from modelstack.reasoning.losses.policy import policy_loss
from modelstack.reasoning.losses.rollouts import Rollouts
from modelstack.reasoning.losses.sampler_correction import SamplerCorrection
from modelstack.reasoning.policy.log_probs import PolicyLogProbs
from modelstack.reasoning.policy.passes import PolicyPasses
from modelstack.reasoning.policy.rollout_batch import RolloutBatch
from modelstack.reasoning.policy.rollout_loader import RolloutLoader, RolloutPlan, SamplingPlan
from modelstack.reasoning.rollouts.reference import Reference
from modelstack.reasoning.sampling.sampled import Sampled
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.stability.plain_state import with_tensors, without_tensors
from tests.modelstack.reasoning.policy.test_policy_run import EMPTY
from tests.modelstack.reasoning.policy.test_rollout_loader import ByOutcome, Scripted
from tests.modelstack.reasoning.policy.toy_policy import toy_encoder, toy_policy

TASKS = [PolicyTask(Item(str(n), "1"), (Message(role="user", content=f"say {n}"),)) for n in range(6)]
V = len(toy_encoder().vocabulary)
SPARSE = LegalTokens.from_ids(np.array([4, 9, 11]))
DENSE = LegalTokens.all_except(frozenset((0, 3)), V)
REPLIES = (
    Sampled((4, 5, 6), (-1.0, -2.0, -3.0), False, legal=(SPARSE, DENSE, None)),
    Sampled((7, 9), (-4.0, -5.0), True, legal=(DENSE, SPARSE)),
)


def loader(model: CausalLM, *, n_rollouts: int = 3, name: AlgorithmName = "dapo", **plan: int) -> RolloutLoader:
    """Return a loader whose steps have two prompts, and the replies above for each."""
    reward = GuardedReward(ByOutcome(), probes=[("none", ByOutcome(), EMPTY)], on_alarm=lambda alarm: None)
    rollout = RolloutPlan(**plan)
    values: list[tuple[float | None, float | None]] = [
        (1.0, 0.1 * n) for n in range(2 * rollout.minibatches * n_rollouts)
    ]
    return RolloutLoader(
        Scripted(values, replies=REPLIES),
        TASKS,
        toy_encoder(),
        reward,
        ALGORITHMS[name],
        SamplingPlan(group=2),
        seed=3,
        n_prompts=2,
        rollout=rollout,
        log_probs=PolicyLogProbs(model, 1.0, Reference(model)),
    )


def move(model: CausalLM, by: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def tensors_of(batch: RolloutBatch) -> list[Tensor]:
    found = (getattr(batch, each.name) for each in dataclasses.fields(batch))
    return [each for each in found if isinstance(each, Tensor)]


def test_a_rollout_is_given_in_minibatches_each_prompt_once_an_epoch() -> None:
    made = loader(toy_policy(), epochs=3, minibatches=2)
    batches = [next(made) for _ in range(13)]
    ids = [batch.task.item.id for batch in batches]
    epochs = [ids[at : at + 4] for at in (0, 4, 8)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs) and len(set(epochs[0])) == 4
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert set(ids[12:]) - set(epochs[0])  # another rollout began
    assert [batch.position for batch in batches] == list(range(13))
    assert made.n_tokens == 13 * 5


def test_the_old_log_probabilities_are_the_trainers_at_the_weights_that_sampled() -> None:
    model = toy_policy()
    made = loader(model, epochs=2)
    first = next(made)
    with torch.no_grad():
        said = PolicyLogProbs(model, 1.0, None).of(first).log_probs_BT
    move(model)
    next(made)
    again = next(made), next(made)  # of the second epoch, in any order
    for batch in (first, next(each for each in again if each.task is first.task)):
        assert batch.old_log_probs_GT is not None
        assert torch.equal(batch.old_log_probs_GT[:, batch.n_shared :], said)
        assert not bool(batch.old_log_probs_GT[:, : batch.n_shared].any())
        assert not torch.allclose(batch.old_log_probs_GT, batch.sampler_log_probs_GT, atol=0.1)
    new = next(made)
    with torch.no_grad():
        assert new.old_log_probs_GT is not None
        moved = PolicyLogProbs(model, 1.0, None).of(new).log_probs_BT
        assert torch.equal(new.old_log_probs_GT[:, new.n_shared :], moved)


def test_a_rollout_that_is_learnt_from_once_needs_no_old_log_probabilities() -> None:
    batch = next(loader(toy_policy()))
    assert batch.old_log_probs_GT is None and batch.ref_log_probs_GT is not None


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"ppo"}))
def test_the_gradient_of_a_pass_is_that_of_the_loss_with_the_stored_old_policy(name: AlgorithmName) -> None:
    model = toy_policy()
    batch = next(loader(model, name=name, epochs=2))
    move(model)
    log_probs = PolicyLogProbs(model, 1.0, Reference(model))
    passes = PolicyPasses(log_probs, ALGORITHMS[name])
    passes.backward([batch], float((batch.labels_BT != IGNORED).sum()))
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    said = log_probs.of(batch)
    behind = slice(batch.n_shared, None)
    old = batch.sampler_log_probs_GT if name == "prime_rl" else batch.old_log_probs_GT
    assert old is not None and batch.ref_log_probs_GT is not None
    rollouts = Rollouts(
        said.log_probs_BT,
        said.is_label_BT,
        batch.advantages_G,
        old[:, behind],
        batch.ref_log_probs_GT[:, behind],
    )
    policy_loss(rollouts, ALGORITHMS[name]).loss.backward()
    expected = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(found) == len(expected) and any(bool(each.any()) for each in found)
    for own, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-6)
    assert passes.metrics["ratio/max"] > passes.metrics["ratio/min"] > 0
    assert passes.metrics["approx_kl"] > 1e-3


def test_the_gap_between_engines_is_corrected_at_the_weights_that_sampled() -> None:
    model = toy_policy()
    batch = next(loader(model, epochs=2))
    correction = SamplerCorrection(name="token_truncate", high=1e6)
    found: list[dict[str, float]] = []
    for by in (0.0, 0.05):
        move(model, by)
        passes = PolicyPasses(PolicyLogProbs(model, 1.0, None), ALGORITHMS["dapo"], correction)
        passes.backward([batch], float((batch.labels_BT != IGNORED).sum()))
        found.append(passes.metrics)
    before, after = found
    for metric in ("correction/mean", "sampler_gap/mean", "sampler_gap/max", "sampler_gap/kl"):
        assert after[metric] == before[metric]
    assert before["approx_kl"] == 0 < after["approx_kl"]
    assert before["ratio/mean"] == 1 != after["ratio/mean"]


@pytest.mark.parametrize("n_given", [1, 2, 5, 7])
def test_a_loader_goes_on_within_a_rollout_with_the_same_numbers(n_given: int) -> None:
    model = toy_policy()
    made = loader(model, epochs=2, minibatches=2)
    for _ in range(n_given):
        next(made)
    tensors: dict[str, Tensor] = {}
    plain = json.loads(json.dumps(without_tensors(made.state_dict(), tensors)))
    move(model)  # the weights that sampled are gone
    resumed = loader(model, epochs=2, minibatches=2)
    resumed.load_state_dict(with_tensors(plain, tensors))
    for _ in range(8 - n_given):
        expected, found = next(made), next(resumed)
        assert found.task is expected.task and found.rewards == expected.rewards
        for own, wanted in zip(tensors_of(found), tensors_of(expected), strict=True):
            assert own.dtype == wanted.dtype and torch.equal(own, wanted)
        for name in ("position", "n_shared", "replies", "is_truncated", "n_tries", "tried_rewards"):
            assert getattr(found, name) == getattr(expected, name)
        assert _legal(found) == _legal(expected)
        assert [None if each is None else each.illegal_V is None for each in found.legal_P or ()] == [
            True,
            False,
            None,
            False,
            True,
        ]
    assert resumed.n_tokens == made.n_tokens and not made.state_dict()["rollout"]


def test_what_is_left_of_a_rollout_is_left_out_after_a_roll_back() -> None:
    made = loader(toy_policy(), epochs=2, minibatches=2)
    first = [next(made).task.item.id for _ in range(3)]
    made.discard_rollout()
    batch = next(made)
    assert batch.position == 8 and batch.task.item.id not in first
    whole = loader(toy_policy(), epochs=2, minibatches=2)
    assert [next(whole) for _ in range(8)] and next(whole).task is batch.task
    once = loader(toy_policy())
    assert [next(once).position for _ in range(2)] == [0, 1]  # used up
    once.discard_rollout()
    assert next(once).position == 2


def _legal(batch: RolloutBatch) -> list[Any]:
    return [None if each is None else each.to_ids().tolist() for each in batch.legal_P or ()]


def test_reuse_needs_the_trainers_log_probabilities() -> None:
    made: Any = loader(toy_policy())
    with pytest.raises(UserError, match="need log_probs of the trainer"):
        RolloutLoader(
            Scripted([]),
            TASKS,
            toy_encoder(),
            made._reward,
            ALGORITHMS["dapo"],
            SamplingPlan(),
            0,
            rollout=RolloutPlan(epochs=2),
        )
