"""The `Loader` of reinforcement learning: a batch is a prompt's replies, sampled now from the model in training.

A batch is asked for right before it is learnt from, and all batches of a step before the optimizer moves, so the
policy that sampled is the policy that is trained. What is sampled depends on the weights, the seed and the place
in the order alone: a run that is killed and goes on samples the same again.

Letters: G replies of a prompt, T tokens of a row.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.data.order import Order
from modelstack.errors import UserError
from modelstack.inference.sampling import LegalTokens
from modelstack.reasoning.losses.advantages import (
    Scale,
    group_advantages,
    informative_groups,
    leave_one_out_advantages,
)
from modelstack.reasoning.sampling.sampled import Asked, Sampled, Sampler, completion_of
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.rewards import Reward
from modelstack.tokenizer.chat import ChatEncoder


class SamplingPlan(BaseModel, frozen=True, extra="forbid"):
    """How replies are sampled and compared."""

    group: int = Field(default=8, ge=2)
    """Replies to a prompt."""
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    grammar: bool = False
    """Whether replies are held to what can be right by their form, as serving holds them: calls of the task's
    tools (the verifiers calls, effects and outcome), JSON of its schema (json)."""
    baseline: Scale | None = "group"
    """Whose deviation advantages are divided by ("none": Dr. GRPO); None: leave-one-out (RLOO)."""
    refill: int = Field(default=0, ge=0)
    """Prompts that are tried in place of one whose replies are all worth the same (DAPO's dynamic sampling)."""
    mask_truncated: bool = False
    """Whether replies that were cut off are left out of the loss."""


@dataclass(frozen=True, slots=True, eq=False)
class RolloutBatch(Batch):
    """G replies to one prompt; labels are the tokens that the policy chose, at the places that predict them."""

    advantages_G: Tensor = field(kw_only=True)
    sampler_log_probs_GT: Tensor = field(kw_only=True)
    """As the sampler had them; 0 where there is no label."""
    n_shared: int = field(kw_only=True)
    """Leading tokens that all rows have in common, before the first place with a label."""
    legal_P: tuple[LegalTokens | None, ...] | None = field(kw_only=True)
    """What a grammar allowed at each place with a label, row by row; None: everything at all of them."""
    task: PolicyTask = field(kw_only=True)
    replies: tuple[str, ...] = field(kw_only=True)
    rewards: tuple[Reward, ...] = field(kw_only=True)
    is_truncated: tuple[bool, ...] = field(kw_only=True)
    n_tries: int = field(kw_only=True)
    """Prompts that were sampled until this one."""
    tried_rewards: tuple[float, ...] = field(kw_only=True)
    """Of the replies to all of them: what the policy earns, where `rewards` are those of groups that teach."""

    def to(self, device: torch.device) -> RolloutBatch:
        """Return the batch, whose tensors go to the device one by one where they are read."""
        return self

    @property
    def reward_values(self) -> list[float]:
        """Return the rewards of the replies that could be judged."""
        return [reward.value for reward in self.rewards if reward.value is not None]

    @property
    def is_informative(self) -> bool:
        """Say whether some replies are worth more than others."""
        return bool(informative_groups(_values(self.rewards))[0])


class RolloutLoader:
    """Asks a sampler, for all prompts of a step at once; see the module."""

    def __init__(
        self,
        sampler: Sampler,
        tasks: Sequence[PolicyTask],
        encoder: ChatEncoder,
        reward: GuardedReward,
        plan: SamplingPlan,
        seed: int,
        n_prompts: int = 1,
    ) -> None:
        """Stand before the first prompt.

        Args:
            sampler: Of the model in training.
            tasks: What is asked, in another order in each epoch.
            encoder: Writes prompts and reads replies.
            reward: Judges them.
            plan: How many replies, and what they are compared with.
            seed: Of order and samples.
            n_prompts: Of an optimizer step, whose weights all of them are sampled from.

        Raises:
            UserError: There is no task.
        """
        if not tasks:
            raise UserError("there is no task to train on; name files with some")
        self._sampler, self._tasks, self._encoder = sampler, tasks, encoder
        self._reward, self._plan, self._seed, self._n_prompts = reward, plan, seed, n_prompts
        self._prompts = [tuple(task.prompt_ids(encoder)) for task in tasks]
        self._n_drawn = 0
        self._n_given = 0
        self._n_tokens = 0
        self._waiting: deque[RolloutBatch] = deque()
        """Of this step, sampled and not yet given."""

    def __iter__(self) -> Iterator[RolloutBatch]:
        """Go on with the next batch."""
        return self

    def __next__(self) -> RolloutBatch:
        """Give the next prompt's replies; the first of a step samples for all of it."""
        if not self._waiting:
            self._waiting.extend(self._step())
        batch = self._waiting.popleft()
        self._n_given += 1
        self._n_tokens += int((batch.labels_BT != IGNORED).sum())
        return batch

    @property
    def n_tokens(self) -> int:
        """Return how many tokens of replies were learnt from."""
        return self._n_tokens

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the order.

        Raises:
            UserError: Some of a step's batches were not asked for yet: weights have moved when they are again.
        """
        if self._waiting:
            raise UserError(
                f"{len(self._waiting)} of a step's {self._n_prompts} prompts are sampled and not given: save "
                f"between steps, with n_prompts the batches of a step"
            )
        return {"n_drawn": self._n_drawn, "n_given": self._n_given, "n_tokens": self._n_tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place in the order."""
        self._n_drawn, self._n_given = state["n_drawn"], state["n_given"]
        self._n_tokens = state["n_tokens"]
        self._waiting.clear()

    def _step(self) -> list[RolloutBatch]:
        """Sample a step's prompts, and others in the place of those whose replies are all worth the same."""
        found: dict[int, RolloutBatch] = {}
        tried: dict[int, tuple[float, ...]] = dict.fromkeys(range(self._n_prompts), ())
        to_do = list(range(self._n_prompts))
        for n_tries in range(1, self._plan.refill + 2):
            asked = [self._drawn() for _ in to_do]
            for place, each, replies in zip(
                to_do, asked, self._sampler.sample(asked, self._plan.group), strict=True
            ):
                found[place] = self._judged(each, replies, self._n_given + place, n_tries, tried[place])
                tried[place] = found[place].tried_rewards
            to_do = [place for place in to_do if not found[place].is_informative]
            if not to_do:
                break
        return [found[place] for place in range(self._n_prompts)]

    def _drawn(self) -> Asked:
        epoch, position = divmod(self._n_drawn, len(self._tasks))
        number = Order(len(self._tasks), self._seed, epoch, "prompts").document(position)
        seed = int.from_bytes(hashlib.sha256(f"{self._seed} {self._n_drawn}".encode()).digest()[:7], "big")
        self._n_drawn += 1
        return Asked(self._tasks[number], self._prompts[number], seed)

    def _judged(
        self,
        asked: Asked,
        sampled: Sequence[Sampled],
        position: int,
        n_tries: int,
        tried: tuple[float, ...],
    ) -> RolloutBatch:
        completions = [completion_of(each, self._encoder) for each in sampled]
        rewards = self._reward.score_batch([(asked.task.item, each) for each in completions])
        values_1G, baseline = _values(rewards), self._plan.baseline
        advantages_1G = (
            leave_one_out_advantages(values_1G) if baseline is None else group_advantages(values_1G, baseline)
        )
        rows = [_Row(asked.prompt_ids, each, self._plan.mask_truncated and each.is_truncated) for each in sampled]
        T = max(len(row) for row in rows)
        return RolloutBatch(
            torch.stack([row.ids(T) for row in rows]),
            torch.stack([row.labels(T) for row in rows]),
            torch.zeros((len(rows), T), dtype=torch.int64),
            position,
            advantages_G=advantages_1G[0],
            sampler_log_probs_GT=torch.stack([row.log_probs(T) for row in rows]),
            n_shared=len(asked.prompt_ids) - 1,
            legal_P=_legal(rows),
            task=asked.task,
            replies=tuple(each.text for each in completions),
            rewards=tuple(rewards),
            is_truncated=tuple(each.is_truncated for each in sampled),
            n_tries=n_tries,
            tried_rewards=(*tried, *(reward.value for reward in rewards if reward.value is not None)),
        )


def _values(rewards: Sequence[Reward]) -> Tensor:
    return torch.tensor([[reward.value if reward.value is not None else torch.nan for reward in rewards]])


class _Row:
    """A prompt with one reply, as a row of a batch: all but the last token, each predicting the next."""

    def __init__(self, prompt_ids: tuple[int, ...], sampled: Sampled, is_left_out: bool) -> None:
        self._sampled, self._prompt = sampled, prompt_ids
        n = len(sampled.ids)
        self._learnt = [False] * n if is_left_out else list(sampled.is_chosen or (True,) * n)

    def __len__(self) -> int:
        return len(self._prompt) - 1 + len(self._sampled.ids)

    def ids(self, n_tokens: int) -> Tensor:
        whole = (*self._prompt, *self._sampled.ids)[:-1]
        return torch.tensor([*whole, *(0,) * (n_tokens - len(whole))])

    def labels(self, n_tokens: int) -> Tensor:
        return self._at_places(self._sampled.ids, n_tokens, IGNORED)

    def log_probs(self, n_tokens: int) -> Tensor:
        return self._at_places(self._sampled.log_probs, n_tokens, 0.0)

    def legal(self) -> list[LegalTokens | None]:
        sets = self._sampled.legal or (None,) * len(self._learnt)
        return [legal for legal, is_learnt in zip(sets, self._learnt, strict=True) if is_learnt]

    def _at_places(self, values: Sequence[float], n_tokens: int, nothing: float) -> Tensor:
        learnt = [value if yes else nothing for value, yes in zip(values, self._learnt, strict=True)]
        before = len(self._prompt) - 1
        return torch.tensor([*(nothing,) * before, *learnt, *(nothing,) * (n_tokens - len(self))])


def _legal(rows: Sequence[_Row]) -> tuple[LegalTokens | None, ...] | None:
    found = tuple(legal for row in rows for legal in row.legal())
    return None if all(legal is None for legal in found) else found
