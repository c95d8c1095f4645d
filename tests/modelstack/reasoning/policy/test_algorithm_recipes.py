"""The algorithm that a recipe names is the one that runs: its advantages, its loss, and no key that disagrees."""

from __future__ import annotations

from typing import Any

import pytest

from modelstack.data.examples import Message
from modelstack.errors import UserError
from modelstack.reasoning.losses.algorithms import ALGORITHMS, AlgorithmName
from modelstack.reasoning.losses.policy_config import Clip, KlTerm
from modelstack.reasoning.policy.log_probs import PolicyLogProbs
from modelstack.reasoning.policy.recipe import PolicyRecipe
from modelstack.reasoning.policy.rollout_loader import RolloutLoader
from modelstack.reasoning.ppo.recipe import PpoRecipe
from modelstack.reasoning.rollouts.reference import Reference
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.recipe_file import checked_recipe
from tests.modelstack.reasoning.policy.test_policy_run import EMPTY
from tests.modelstack.reasoning.policy.test_rollout_loader import ByOutcome, Scripted
from tests.modelstack.reasoning.policy.toy_policy import toy_encoder, toy_policy


def recipe(**changes: Any) -> PolicyRecipe:
    values = {"name": "toy", "base": "model.gguf", "data": {"training": ["tasks.jsonl"], "verifier": "math"}}
    return checked_recipe(PolicyRecipe, values | changes)


ADVANTAGES: dict[AlgorithmName, float] = {
    "grpo": 0.5 / (0.5**0.5 + 1e-4),  # by the deviation of 1 and 0, which is the root of 1 / 2
    "dapo": 0.5 / (0.5**0.5 + 1e-4),
    "dr_grpo": 0.5,
    "reinforce": 0.5,
    "prime_rl": 0.5,
    "rloo": 1.0,
}
"""Of a reply that is worth 1 beside one that is worth 0."""


@pytest.mark.parametrize("name", ADVANTAGES)
def test_the_algorithm_alone_chooses_how_rewards_become_advantages(name: AlgorithmName) -> None:
    made = recipe(algorithm=name, sampling={"group": 2}, policy={"kl": {"coefficient": 0}})
    reward = GuardedReward(ByOutcome(), probes=[("none", ByOutcome(), EMPTY)], on_alarm=lambda alarm: None)
    tasks = [PolicyTask(Item("t", "1"), (Message(role="user", content="say 1"),))]
    sampler = Scripted([(1.0, 0.0)])
    batch = next(
        RolloutLoader(sampler, tasks, toy_encoder(), reward, made.policy_config, made.sampling, made.seed)
    )
    assert batch.advantages_G.tolist() == pytest.approx([ADVANTAGES[name], -ADVANTAGES[name]])


def test_the_kl_of_rloo_is_paid_by_the_reward() -> None:
    config = recipe(algorithm="rloo").policy_config
    assert config.kl == KlTerm(coefficient=0.05, place="reward", estimator="k1")
    model = toy_policy()
    reference = Reference(model)
    for parameter in model.parameters():
        parameter.data += 0.02
    log_probs = PolicyLogProbs(model, 1.0, reference)
    reward = GuardedReward(ByOutcome(), probes=[("none", ByOutcome(), EMPTY)], on_alarm=lambda alarm: None)
    tasks = [PolicyTask(Item("t", "1"), (Message(role="user", content="say 1"),))]
    made = recipe(sampling={"group": 2})
    loader = RolloutLoader(
        Scripted([(1.0, 0.0)]), tasks, toy_encoder(), reward, config, made.sampling, 0, log_probs=log_probs
    )
    batch = next(loader)
    assert batch.old_log_probs_GT is not None and batch.ref_log_probs_GT is not None
    kl = (batch.old_log_probs_GT - batch.ref_log_probs_GT).where(batch.labels_BT != -100, 0).sum(-1).tolist()
    gap = (1.0 - 0.05 * kl[0]) - (0.0 - 0.05 * kl[1])
    assert abs(kl[0] - kl[1]) > 0.01
    assert batch.advantages_G.tolist() == pytest.approx([gap, -gap], rel=1e-4)
    with pytest.raises(UserError, match="log_probs needs a reference"):
        no_reference = PolicyLogProbs(model, 1.0, None)
        RolloutLoader(Scripted([]), tasks, toy_encoder(), reward, config, made.sampling, 0, log_probs=no_reference)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"algorithm": "grpo", "policy": {"advantage": "leave_one_out"}},
            r"policy\.advantage = 'leave_one_out' contradicts algorithm = 'grpo', which fixes it to "
            r"'group_normalised': leave the key out, or take an algorithm that has it: rloo",
        ),
        (
            {"algorithm": "rloo", "policy": {"ratio": "sequence_mean"}},
            r"policy\.ratio = 'sequence_mean' contradicts algorithm = 'rloo', which fixes it to 'sequence_sum'.*"
            r"gspo, luspo",
        ),
        (
            {"algorithm": "dapo", "policy": {"aggregation": "sequence_mean"}},
            r"policy\.aggregation = 'sequence_mean' contradicts algorithm = 'dapo'.*: grpo, gspo, sapo",
        ),
        (
            {"algorithm": "dapo", "policy": {"surrogate": {"name": "cispo", "ratio_cap": 4.0}}},
            r"policy\.surrogate\.name = 'cispo' contradicts algorithm = 'dapo', which fixes it to 'clip'.*: cispo",
        ),
        (
            {"algorithm": "grpo", "policy": {"kl": {"estimator": "k1", "coefficient": 0.1}}},
            r"policy\.kl\.estimator = 'k1' contradicts algorithm = 'grpo', which fixes it to 'k3'.*: rloo, "
            r"reinforce, ppo",
        ),
        (
            {"algorithm": "sapo", "policy": {"surrogate": {"epsilon_high": 0.3}}},
            r"policy\.surrogate\.epsilon_high is not a key of algorithm = 'sapo'; algorithms that have it: grpo,.*"
            r"all keys: policy\.surrogate\.temperature_positive, policy\.surrogate\.temperature_negative, "
            r"policy\.kl\.coefficient",
        ),
        (
            {"algorithm": "grpo", "policy": {"kl": {"coeficient": 0.1}}},
            r"policy\.kl\.coeficient is not a key of algorithm = 'grpo'\. Nearest: policy\.kl\.coefficient",
        ),
        (
            {"algorithm": "grpo", "policy": {"surrogate": {"epsilon_low": -1}}},
            r"policy\.surrogate\.epsilon_low of algorithm = 'grpo': Input should be greater than or equal to 0",
        ),
        (
            {"algorithm": "reinforce", "rollout": {"epochs": 2}},
            r"rollout\.epochs = 2 and rollout\.minibatches = 1 contradict algorithm = 'reinforce', which has no "
            r"ratio.*set both to 1, or choose an algorithm with a ratio",
        ),
        (
            {"algorithm": "prime_rl", "correction": {}},
            r"correction contradicts algorithm = 'prime_rl', whose ratio already refers to.*leave the table "
            r"correction out",
        ),
        ({"sampling": {"baseline": "none"}}, r"recipe key 'sampling\.baseline' is not known"),
        ({"algorithm": "gspo_token"}, "recipe key 'algorithm'"),
    ],
)
def test_a_key_that_contradicts_its_algorithm_names_the_key_the_rule_and_the_fix(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        recipe(**changes)


def test_numbers_of_an_algorithm_stay_keys() -> None:
    made = recipe(
        algorithm="grpo",
        policy={"surrogate": {"epsilon_high": 0.3, "delta": 3.0}, "kl": {"coefficient": 0.001}, "ratio": "token"},
        sampling={"max_tokens": 7},
    )
    assert made.policy_config == ALGORITHMS["grpo"].model_copy(
        update={
            "surrogate": Clip(epsilon_high=0.3, delta=3.0),
            "kl": KlTerm(coefficient=0.001),
            "max_completion_tokens": 7,
        }
    )
    without = recipe(algorithm="grpo", policy={"kl": {"coefficient": 0}}).policy_config
    assert not without.has_kl_loss and not without.teaches_equal_rewards


def test_the_steps_of_a_run_count_those_on_each_rollout() -> None:
    shape = {"rows": 3, "micro_batches": 3, "epochs": 2}
    assert recipe(**shape).n_steps(20) == 14  # 40 prompts, 3 a step
    assert recipe(**shape, rollout={"epochs": 2, "minibatches": 2}).n_steps(20) == 7 * 4  # 6 a rollout
    assert recipe(steps=5, rollout={"epochs": 2, "minibatches": 2}).n_steps(20) == 5


def test_the_policy_loss_of_ppo_is_ppos() -> None:
    values = {"name": "toy", "base": "model.gguf", "data": {"training": ["tasks.jsonl"], "verifier": "math"}}
    made = checked_recipe(PpoRecipe, values | {"policy": {"surrogate": {"delta": 3.0}}})
    assert made.policy_config == ALGORITHMS["ppo"].model_copy(update={"surrogate": Clip(delta=3.0)})
    with pytest.raises(UserError, match=r"policy\.ratio = 'sequence_mean' contradicts algorithm = 'ppo'"):
        checked_recipe(PpoRecipe, values | {"policy": {"ratio": "sequence_mean"}})
