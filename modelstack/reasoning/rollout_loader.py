"""The `Loader` of reinforcement learning: a batch is a prompt's replies, sampled now from the model in training.

A batch is asked for right before it is learnt from, and all batches of a step before the optimizer moves, so the
policy that sampled is the policy that is trained. What is sampled depends on the weights, the seed and the place
in the order alone: a run that is killed and goes on samples the same again.

Letters: G replies of a prompt, T tokens of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.order import Order
from modelstack.errors import UserError
from modelstack.reasoning.advantages import Scale, group_advantages, informative_groups, leave_one_out_advantages
from modelstack.reasoning.group_sampler import Sampled, completion_of, sample_group
from modelstack.reasoning.policy_tasks import PolicyTask
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.rewards import Reward
from modelstack.tokenizer.chat import ChatEncoder


class SamplingPlan(BaseModel, frozen=True, extra="forbid"):
    """How replies are sampled and compared."""

    group: int = Field(default=8, ge=2)
    """Replies to a prompt."""
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    baseline: Scale | None = "group"
    """Whose deviation advantages are divided by ("none": Dr. GRPO); None: leave-one-out (RLOO)."""
    refill: int = Field(default=0, ge=0)
    """Prompts that are tried in place of one whose replies are all worth the same (DAPO's dynamic sampling)."""
    mask_truncated: bool = False
    """Whether replies that were cut off are left out of the loss."""


@dataclass(frozen=True, slots=True, eq=False)
class RolloutBatch(Batch):
    """G replies to one prompt; labels are their tokens, aligned to the places that predict them."""

    advantages_G: Tensor = field(kw_only=True)
    sampler_log_probs_GT: Tensor = field(kw_only=True)
    """As the sampler had them; 0 where there is no label."""
    task: PolicyTask = field(kw_only=True)
    replies: tuple[str, ...] = field(kw_only=True)
    rewards: tuple[Reward, ...] = field(kw_only=True)
    is_truncated: tuple[bool, ...] = field(kw_only=True)
    n_tries: int = field(kw_only=True)
    """Prompts that were sampled until this one."""

    def to(self, device: torch.device) -> RolloutBatch:
        """Return the batch, whose tensors go to the device one by one where they are read."""
        return self

    @property
    def reward_values(self) -> list[float]:
        """Return the rewards of the replies that could be judged."""
        return [reward.value for reward in self.rewards if reward.value is not None]


class RolloutLoader:
    """Samples from a model; see the module."""

    def __init__(
        self,
        model: CausalLM,
        tasks: Sequence[PolicyTask],
        encoder: ChatEncoder,
        reward: GuardedReward,
        plan: SamplingPlan,
        seed: int,
    ) -> None:
        """Stand before the first prompt.

        Raises:
            UserError: There is no task.
        """
        if not tasks:
            raise UserError("there is no task to train on; name files with some")
        self._model, self._tasks, self._encoder = model, tasks, encoder
        self._reward, self._plan, self._seed = reward, plan, seed
        self._end_ids = frozenset(encoder.end_ids)
        self._prompts = [task.prompt_ids(encoder) for task in tasks]
        self._n_drawn = 0
        self._n_given = 0
        self._n_tokens = 0

    def __iter__(self) -> Iterator[RolloutBatch]:
        """Go on with the next batch."""
        return self

    def __next__(self) -> RolloutBatch:
        """Sample the next prompt's replies, and others in its place where all are worth the same."""
        for n_tries in range(1, self._plan.refill + 2):
            batch = self._sampled(n_tries)
            values = torch.tensor([[r.value if r.value is not None else torch.nan for r in batch.rewards]])
            if bool(informative_groups(values)[0]):
                break
        self._n_given += 1
        self._n_tokens += int((batch.labels_BT != IGNORED).sum())
        return batch

    @property
    def n_tokens(self) -> int:
        """Return how many tokens of replies were learnt from."""
        return self._n_tokens

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the order."""
        return {"n_drawn": self._n_drawn, "n_given": self._n_given, "n_tokens": self._n_tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place in the order."""
        self._n_drawn, self._n_given = state["n_drawn"], state["n_given"]
        self._n_tokens = state["n_tokens"]

    def _sampled(self, n_tries: int) -> RolloutBatch:
        epoch, position = divmod(self._n_drawn, len(self._tasks))
        number = Order(len(self._tasks), self._seed, epoch, "prompts").document(position)
        task, prompt = self._tasks[number], self._prompts[number]
        plan = self._plan
        seed = int.from_bytes(hashlib.sha256(f"{self._seed} {self._n_drawn}".encode()).digest()[:7], "big")
        self._n_drawn += 1
        sampled = sample_group(
            self._model,
            prompt,
            plan.group,
            max_tokens=plan.max_tokens,
            temperature=plan.temperature,
            end_ids=self._end_ids,
            seed=seed,
        )
        completions = [completion_of(each, self._encoder) for each in sampled]
        rewards = self._reward.score_batch([(task.item, each) for each in completions])
        values_1G = torch.tensor([[r.value if r.value is not None else torch.nan for r in rewards]])
        advantages_G = (
            leave_one_out_advantages(values_1G)
            if plan.baseline is None
            else group_advantages(values_1G, plan.baseline)
        )[0]
        left_out = [plan.mask_truncated and each.is_truncated for each in sampled]
        return RolloutBatch(
            *_rows(prompt, sampled, left_out),
            self._n_given,
            advantages_G=advantages_G,
            sampler_log_probs_GT=_aligned(prompt, sampled, left_out),
            task=task,
            replies=tuple(each.text for each in completions),
            rewards=tuple(rewards),
            is_truncated=tuple(each.is_truncated for each in sampled),
            n_tries=n_tries,
        )


def _rows(
    prompt: Sequence[int], sampled: Sequence[Sampled], left_out: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, labels and documents, [G, T]; padding stands behind and has no label."""
    G, T = len(sampled), len(prompt) - 1 + max(len(each.ids) for each in sampled)
    ids_GT = torch.zeros((G, T), dtype=torch.int64)
    labels_GT = torch.full((G, T), IGNORED)
    for g, (each, is_out) in enumerate(zip(sampled, left_out, strict=True)):
        whole = torch.tensor([*prompt, *each.ids])
        ids_GT[g, : len(whole) - 1] = whole[:-1]
        if not is_out:
            labels_GT[g, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    return ids_GT, labels_GT, torch.zeros((G, T), dtype=torch.int64)


def _aligned(prompt: Sequence[int], sampled: Sequence[Sampled], left_out: Sequence[bool]) -> Tensor:
    G, T = len(sampled), len(prompt) - 1 + max(len(each.ids) for each in sampled)
    found_GT = torch.zeros((G, T))
    for g, (each, is_out) in enumerate(zip(sampled, left_out, strict=True)):
        if not is_out:
            found_GT[g, len(prompt) - 1 : len(prompt) - 1 + len(each.ids)] = torch.tensor(each.log_probs)
    return found_GT
