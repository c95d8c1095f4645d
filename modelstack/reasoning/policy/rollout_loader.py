"""`Loader` of policy gradients: a batch is the replies to a prompt, sampled from the model in training.

A rollout is sampled right before it is learnt from, all prompts at once. It is used for one optimizer step or for
several: divided into minibatches and repeated for some epochs. The policy changes between these steps, so the
trainer's log-probabilities are stored at the rollout, and an unfinished rollout is part of the state. A new
rollout depends only on the weights, the seed and the position in the data, so a run that is killed and resumed
samples the same replies.

Letters: N prompts of a rollout.
"""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import BaseModel, Field

from modelstack.architecture.losses import IGNORED
from modelstack.data.order import Order
from modelstack.errors import UserError
from modelstack.posttrain.processes import ALONE, Processes
from modelstack.reasoning.losses.advantages import advantages_of
from modelstack.reasoning.losses.kl import kl_penalised_rewards
from modelstack.reasoning.losses.policy_config import PolicyConfig
from modelstack.reasoning.policy.log_probs import PolicyLogProbs
from modelstack.reasoning.policy.rollout_batch import RolloutBatch, judged_batch, reward_values_of
from modelstack.reasoning.policy.rollout_state import rollout_of, rollout_state
from modelstack.reasoning.rollouts.prompts import Prompts
from modelstack.reasoning.sampling.sampled import Sampler
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.tokenizer.chat import ChatEncoder


class SamplingPlan(BaseModel, frozen=True, extra="forbid"):
    """Number and limits of sampled replies."""

    group: int = Field(default=8, ge=2)
    """Number of replies to a prompt."""
    max_tokens: int = Field(default=128, ge=1)
    """Maximum tokens of a reply."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature."""
    grammar: bool = False
    """Whether replies are constrained to valid forms, as in serving.

    These are calls of the task's tools (verifiers calls, effects and outcome), or JSON of its schema (verifier
    json).
    """
    refill: int = Field(default=0, ge=0)
    """Maximum number of other prompts that are tried for one with equal rewards (DAPO's dynamic sampling)."""
    mask_truncated: bool = False
    """Whether truncated replies are left out of the loss."""


class RolloutPlan(BaseModel, frozen=True, extra="forbid"):
    """Number of optimizer steps on a rollout: `epochs * minibatches`."""

    epochs: int = Field(default=1, ge=1)
    """Passes over all replies, in a new order after the first (TRL's num_iterations, verl's ppo_epochs)."""
    minibatches: int = Field(default=1, ge=1)
    """Steps of an epoch, each of `rows` prompts (TRL's steps_per_generation).

    A rollout has `rows * minibatches` prompts.
    """

    @property
    def n_steps(self) -> int:
        """Number of optimizer steps on one rollout."""
        return self.epochs * self.minibatches


class RolloutLoader:
    """`Loader` that samples a new rollout when the last one is used up."""

    def __init__(
        self,
        sampler: Sampler,
        tasks: Sequence[PolicyTask],
        encoder: ChatEncoder,
        reward: GuardedReward,
        config: PolicyConfig,
        plan: SamplingPlan,
        seed: int,
        n_prompts: int = 1,
        *,
        rollout: RolloutPlan | None = None,
        log_probs: PolicyLogProbs | None = None,
        processes: Processes = ALONE,
        refresh: Callable[[], object] | None = None,
    ) -> None:
        """Initialise before the first prompt.

        Args:
            sampler: Sampler of the model in training.
            tasks: Tasks, used in a new order in each epoch.
            encoder: Encoder that renders prompts and parses replies.
            reward: Judge of the replies.
            config: The algorithm, which computes advantages from rewards.
            plan: Number and limits of the replies.
            seed: Seed of the order and of the samples.
            n_prompts: Prompts of an optimizer step.
            rollout: Number of steps on a rollout; None: one step.
            log_probs: The trainer's log-probabilities, computed at the rollout; None: neither a reference nor old
                log-probabilities are needed.
            processes: Processes that share the prompts; each samples and learns from its part.
            refresh: Called before a rollout, to give the sampler the trained weights; None: the sampler uses the
                trained model itself.

        Raises:
            UserError: There are no tasks, or `log_probs` or its reference is required and missing.
        """
        self._prompts = Prompts(tasks, encoder, seed)
        self._sampler, self._encoder = sampler, encoder
        self._reward, self._config, self._plan, self._seed = reward, config, plan, seed
        self._epochs = 1 if rollout is None else rollout.epochs
        self._n_prompts = n_prompts if rollout is None else n_prompts * rollout.minibatches
        self._log_probs = log_probs
        self._processes, self._refresh = processes, refresh
        self._with_old = config.has_kl_reward or (rollout is not None and rollout.n_steps > 1)
        if log_probs is None and self._with_old:
            raise UserError("several steps on a rollout, or a KL in the reward, need log_probs of the trainer")
        if config.has_kl_reward and (log_probs is None or log_probs.reference is None):
            raise UserError("the algorithm has a KL in the reward: log_probs needs a reference")
        self._n_given = 0
        self._n_tokens = 0
        self._rollout: tuple[RolloutBatch, ...] = ()
        """Rollout in use; empty: the next batch samples a new one."""

    def __iter__(self) -> Iterator[RolloutBatch]:
        """Return the loader."""
        return self

    def __next__(self) -> RolloutBatch:
        """Return the replies to the next prompt of this process; sample a new rollout if none are left."""
        return [self._next() for _ in range(self._processes.world)][self._processes.rank]

    def _next(self) -> RolloutBatch:
        if not self._rollout:
            self._rollout = tuple(self._sampled())
        N = len(self._rollout)
        pass_number, at = divmod(self._n_given, N)
        epoch = pass_number % self._epochs
        place = at if epoch == 0 else Order(N, self._seed, pass_number, "replies").document(at)
        batch = replace(self._rollout[place], position=self._n_given)
        self._n_given += 1
        self._n_tokens += int((batch.labels_BT != IGNORED).sum())
        if self._n_given % (N * self._epochs) == 0:
            self._rollout = ()
        return batch

    def discard_rollout(self) -> None:
        """Discard the rest of a rollout, because a roll-back has replaced the weights that sampled it."""
        n_of_rollout = len(self._rollout) * self._epochs
        if n_of_rollout:
            self._n_given += n_of_rollout - self._n_given % n_of_rollout
            self._rollout = ()

    @property
    def n_tokens(self) -> int:
        """Tokens of replies that all processes learnt from, counted at each use."""
        return self._n_tokens

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the rollout in use."""
        return {
            "n_drawn": self._prompts.n_drawn,
            "n_given": self._n_given,
            "n_tokens": self._n_tokens,
            "rollout": [rollout_state(batch, self._prompts.tasks) for batch in self._rollout],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a position and rollout."""
        self._prompts.n_drawn, self._n_given = state["n_drawn"], state["n_given"]
        self._n_tokens = state["n_tokens"]
        self._rollout = tuple(rollout_of(each, self._prompts.tasks) for each in state["rollout"])

    def _sampled(self) -> list[RolloutBatch]:
        """Sample a rollout; prompts whose replies have equal rewards are replaced by others."""
        if self._refresh is not None:
            self._refresh()
        found: dict[int, RolloutBatch] = {}
        tried: dict[int, tuple[float, ...]] = dict.fromkeys(range(self._n_prompts), ())
        to_do = list(range(self._n_prompts))
        for n_tries in range(1, self._plan.refill + 2):
            asked = {place: self._prompts.draw() for place in to_do}
            own = to_do[self._processes.rank :: self._processes.world]
            sampled = self._sampler.sample([asked[place] for place in own], self._plan.group)
            judged = {
                place: judged_batch(
                    asked[place],
                    replies,
                    self._encoder,
                    self._reward,
                    self._config.advantage,
                    mask_truncated=self._plan.mask_truncated,
                    n_tries=n_tries,
                    tried_rewards=tried[place],
                )
                for place, replies in zip(own, sampled, strict=True)
            }
            found |= self._shared(judged)
            tried |= {place: found[place].tried_rewards for place in to_do}
            to_do = [place for place in to_do if not found[place].is_informative]
            if not to_do:
                break
        own = range(self._processes.rank, self._n_prompts, self._processes.world)
        found = self._shared({place: self._at_rollout(found[place]) for place in own})
        return [found[place] for place in range(self._n_prompts)]

    def _shared(self, own: dict[int, RolloutBatch]) -> dict[int, RolloutBatch]:
        """Return the batches of all processes by prompt number."""
        if self._processes.mesh is None:
            return own
        tasks = self._prompts.tasks
        written = io.BytesIO()
        torch.save({place: rollout_state(batch, tasks) for place, batch in own.items()}, written)
        found: dict[int, RolloutBatch] = {}
        for text in self._processes.gathered([b64encode(written.getvalue()).decode()]):
            states = torch.load(io.BytesIO(b64decode(text)), weights_only=True)
            found |= {place: rollout_of(state, tasks) for place, state in states.items()}
        return found

    def _at_rollout(self, batch: RolloutBatch) -> RolloutBatch:
        """Return a batch with the current log-probabilities, and the KL penalty in its advantages."""
        if self._log_probs is None:
            return batch
        batch = self._log_probs.at_rollout(batch, with_old=self._with_old)
        if not self._config.has_kl_reward:
            return batch
        assert batch.old_log_probs_GT is not None and batch.ref_log_probs_GT is not None
        rewards_G = kl_penalised_rewards(
            reward_values_of(batch.rewards)[0],
            batch.old_log_probs_GT,
            batch.ref_log_probs_GT,
            batch.labels_BT != IGNORED,
            self._config.kl.coefficient,
        )
        return replace(batch, advantages_G=advantages_of(rewards_G[None], self._config.advantage)[0])
