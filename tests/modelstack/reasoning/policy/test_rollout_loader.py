"""Batches of rollouts: what is learnt and what is only read, and a step's prompts sampled together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from modelstack.architecture.losses import IGNORED
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.posttrain.base import load_base
from modelstack.reasoning.losses.algorithms import ALGORITHMS
from modelstack.reasoning.policy.rollout_batch import RolloutBatch
from modelstack.reasoning.policy.rollout_loader import RolloutLoader, SamplingPlan
from modelstack.reasoning.sampling.sampled import Asked, Sampled
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward
from modelstack.tokenizer.chat import ChatEncoder
from tests.modelstack.posttrain.toy_trainings import write_tasks
from tests.modelstack.reasoning.policy.test_policy_run import EMPTY
from tests.modelstack.sft.toy_sft import write_base


class ByOutcome:
    """Pays what the sampler says."""

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        return Reward(completion.outcome)


@dataclass
class Scripted:
    """Gives the replies of a script: rewards by group, in order of the prompts."""

    rewards: list[tuple[float | None, float | None]]
    asked: list[Sequence[Asked]] = field(default_factory=list)
    replies: tuple[Sampled, Sampled] = (
        Sampled((4, 5, 6), (-1.0, -2.0, -3.0), False),
        Sampled((7, 8), (-4.0, -5.0), True),
    )

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        self.asked.append(asked)
        return [self._group(*self.rewards.pop(0)) for _ in asked]

    def _group(self, *rewards: float | None) -> list[Sampled]:
        return [
            Sampled(each.ids, each.log_probs, each.is_truncated, each.is_chosen, each.legal, outcome=reward)
            for each, reward in zip(self.replies, rewards, strict=True)
        ]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ChatEncoder:
    return load_base(write_base(tmp_path_factory.mktemp("loader"))).encoder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[PolicyTask]:
    path = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    write_tasks(path, 0, 5)
    return list(read_tasks(path))


def loader(sampler: Scripted, encoder: ChatEncoder, tasks: list[PolicyTask], **plan: Any) -> RolloutLoader:
    reward = GuardedReward(ByOutcome(), probes=[("none", ByOutcome(), EMPTY)], on_alarm=lambda alarm: None)
    config = ALGORITHMS["dapo"]
    return RolloutLoader(
        sampler, tasks, encoder, reward, config, SamplingPlan(group=2, **plan), seed=1, n_prompts=2
    )


def learnt(batch: RolloutBatch) -> list[list[int]]:
    return [row[row != IGNORED].tolist() for row in batch.labels_BT]


def test_a_row_is_the_prompt_and_a_reply_and_learns_the_reply(
    encoder: ChatEncoder, tasks: list[PolicyTask]
) -> None:
    sampler = Scripted([(1.0, 0.0), (1.0, 0.0)])
    batch = next(loader(sampler, encoder, tasks))
    prompt = sampler.asked[0][0].prompt_ids
    n = len(prompt)
    assert batch.n_shared == n - 1 and batch.legal_P is None
    assert batch.ids_BT.tolist() == [[*prompt, 4, 5], [*prompt, 7, 0]]
    assert batch.labels_BT[:, n - 1 :].tolist() == [[4, 5, 6], [7, 8, IGNORED]]
    assert bool((batch.labels_BT[:, : n - 1] == IGNORED).all())
    assert batch.sampler_log_probs_GT[:, n - 1 :].tolist() == [[-1, -2, -3], [-4, -5, 0]]
    assert batch.advantages_G.tolist() == pytest.approx([0.7071, -0.7071], abs=1e-3)


def test_what_tools_wrote_is_read_and_not_learnt(encoder: ChatEncoder, tasks: list[PolicyTask]) -> None:
    some, whole = LegalTokens.from_ids(np.array([4, 9])), None
    replies = (
        Sampled((4, 5, 6), (-1.0, 0.0, -3.0), False, (True, False, True), (some, None, whole)),
        Sampled((7, 8), (-4.0, -5.0), True),
    )
    sampler = Scripted([(1.0, 0.0), (1.0, 0.0)], replies=replies)
    batch = next(loader(sampler, encoder, tasks))
    assert batch.ids_BT[0, -2:].tolist() == [4, 5]
    assert learnt(batch) == [[4, 6], [7, 8]]
    assert batch.legal_P == (some, None, None, None)
    assert batch.sampler_log_probs_GT[0][batch.labels_BT[0] != IGNORED].tolist() == [-1, -3]
    masked = next(loader(Scripted([(1.0, 0.0), (1.0, 0.0)], replies=replies), encoder, tasks, mask_truncated=True))
    assert learnt(masked) == [[4, 6], []]
    assert masked.legal_P == (some, None)


def test_prompts_of_a_step_are_asked_together_and_equal_groups_replaced(
    encoder: ChatEncoder, tasks: list[PolicyTask]
) -> None:
    sampler = Scripted([(1.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.0, 1.0), (1.0, 0.0)])
    made = loader(sampler, encoder, tasks, refill=2)
    first = next(made)
    second = next(made)
    # The first place was refilled twice, the second had a group that teaches; then the next step begins.
    assert [len(asked) for asked in sampler.asked] == [2, 1, 1]
    assert (first.n_tries, second.n_tries) == (3, 1)
    assert (first.reward_values, second.reward_values) == ([0.0, 1.0], [1.0, 0.0])
    assert (first.tried_rewards, second.tried_rewards) == ((1, 1, 0, 0, 0, 1), (1, 0))
    assert (first.position, second.position) == (0, 1)
    state = made.state_dict()
    third = next(made)
    again = Scripted([(0.0, 1.0), (1.0, 0.0)])
    resumed = loader(again, encoder, tasks, refill=2)
    resumed.load_state_dict(state)
    assert next(resumed).task == third.task
    assert [each.seed for each in again.asked[0]] == [each.seed for each in sampler.asked[3]]
    asked = [each.task.item.id for wave in sampler.asked for each in wave]
    assert len(set(asked[:5])) == 5  # each task once before any comes again
