"""PPO: the policy samples, a reward model or a verifier judges, and a critic learns the expected return.

The policy is updated by the difference to the expected return, with a penalty on every token for leaving the
initial policy. The stage holds the policy; the critic is only in the run's checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console
from torch import nn

from modelstack.errors import UserError
from modelstack.posttrain.driver import run_training
from modelstack.posttrain.resolving import hashes_of, resolved_parts
from modelstack.posttrain.row_loader import row_order
from modelstack.posttrain.stages.record import Kind
from modelstack.posttrain.stages.stage import Stage, open_stage
from modelstack.posttrain.starting_point import StartingPoint, load_start
from modelstack.posttrain.training import Job, Report, Told, Training
from modelstack.posttrain.values_hook import REWARDS_FILE
from modelstack.reasoning.ppo.actor_critic import ActorCritic, actor_critic_optimizer, critic_of
from modelstack.reasoning.ppo.loader import PpoLoader
from modelstack.reasoning.ppo.passes import PpoPasses
from modelstack.reasoning.ppo.recipe import PpoRecipe, PpoResolved
from modelstack.reasoning.rollouts.held_back import REPLIES_FILE, HeldBack
from modelstack.reasoning.rollouts.judges import Judge, VerifierJudge, model_judge
from modelstack.reasoning.rollouts.reference import Reference
from modelstack.reasoning.rollouts.rewards_plot import REWARDS_PLOT, draw_rewards
from modelstack.reasoning.rollouts.task_files import read_policy_tasks
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.reasoning.verifiers.alarms import RewardHacked
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.sft.loader import SftLoader
from modelstack.sft.tokenised import tokenise
from modelstack.sft.training_data import read_training_data


def optimise(recipe: PpoRecipe, path: Path, console: Console) -> Stage | None:
    """Train by PPO; see `run_training`.

    Raises:
        UserError: As for `run_training`, or if the reward was hacked.
    """
    try:
        return run_training(Ppo, recipe, path, console)
    except RewardHacked as error:
        raise UserError(f"the run stopped, because further training would teach a hack: {error}") from error


class Ppo(Training[PpoResolved]):
    """Training by PPO."""

    kind: ClassVar[Kind] = "reasoning"

    @classmethod
    def resolve(cls, recipe: PpoRecipe, start: StartingPoint) -> PpoResolved:
        """Return the recipe with every default and hash filled in.

        Raises:
            UserError: As for every training, or the adapter has dropout.
        """
        reward = None if recipe.reward is None else open_stage(Path(recipe.reward)).origin
        mix = () if recipe.mix is None else hashes_of("mix.data.training", recipe.mix.data)
        parts = resolved_parts(recipe, start)
        resolved = PpoResolved(**parts, policy=recipe.policy_config, reward=reward, mix_sha256=mix)
        if resolved.lora is not None and resolved.lora.dropout:
            raise UserError(
                f"lora.dropout is {resolved.lora.dropout}: "
                f"dropout makes the ratio of two policies noise, set it to 0"
            )
        return resolved

    def __init__(self, job: Job[PpoResolved], told: Told) -> None:
        """Read tasks, policy, judge and critic."""
        super().__init__(job, told)
        recipe, lora = self.resolved.recipe, self.resolved.lora
        tasks = read_policy_tasks(
            recipe.data, recipe.data.verifier, max_validation=recipe.max_validation, seed=recipe.seed
        )
        told("loading the base")
        self.base = base = load_start(recipe, lora, job.start)
        reward = None if recipe.reward is None else open_stage(Path(recipe.reward))
        self._judge = self._judge_of(reward, told)
        limit = recipe.sampling.max_tokens
        greedy = GroupSampler(TorchPolicy(base.model), frozenset(base.encoder.end_ids), limit, temperature=0.0)
        self._held_back = HeldBack(tasks.held_back, base.encoder, greedy, self._judge, [limit])
        self._tasks = tasks.training
        self.data = tasks.manifest
        self._mix = self._mixed_in()
        self._actor_critic = ActorCritic(base.model, critic_of(base.model, recipe, lora, reward))
        self.model = self._actor_critic

    def measure(self, told: Told) -> None:
        """Measure held-back tasks."""
        told("answering held-back tasks")
        self.before = self._held_back.before(self.job.folder)

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.resolved.recipe.n_steps(len(self._tasks))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of policy and critic."""
        return actor_critic_optimizer(self._actor_critic, self.resolved.recipe, self.resolved.lora)

    def parts(self) -> tuple[PpoLoader, PpoPasses]:
        """Return the loader of experience, and the passes of policy and critic."""
        recipe, base, plan = self.resolved.recipe, self.base, self.resolved.recipe.sampling
        passes = PpoPasses(self._actor_critic, self.resolved.policy, recipe.critic, plan.temperature)
        if recipe.mix is not None:
            passes.mix_coefficient = recipe.mix.coefficient
        end_ids = frozenset(base.encoder.end_ids)
        sampler = GroupSampler(TorchPolicy(base.model), end_ids, plan.max_tokens, plan.temperature)
        loader = PpoLoader(
            sampler,
            self._tasks,
            base.encoder,
            self._judge,
            self._actor_critic,
            Reference(base.model),
            recipe,
            self._mix,
        )
        return loader, passes

    def report(self, n_steps: int, told: Told) -> Report:
        """Measure held-back tasks and draw the rewards."""
        recipe, folder = self.resolved.recipe, self.job.folder
        told("answering held-back tasks")
        after = self._held_back.after(folder)
        draw_rewards(folder / REWARDS_FILE, folder / REWARDS_PLOT)
        reward = self.resolved.reward
        judge = recipe.data.verifier if reward is None else f"reward model {reward.name}"
        passes = "1 pass" if recipe.passes == 1 else f"{recipe.passes} passes"
        what = (
            f"PPO ({judge}) of {self.trained}: {n_steps:,} steps of {recipe.rows} replies, {passes} "
            f"over batches of {recipe.sampling.n_replies}, from {len(self._tasks):,} prompts."
        )
        return Report(what, after, (REWARDS_PLOT, *([REPLIES_FILE] if after else [])))

    def _judge_of(self, reward: Stage | None, told: Told) -> Judge:
        recipe, base = self.resolved.recipe, self.base
        if reward is not None:
            told("loading the reward model")
            return model_judge(reward, base.model, base.tokenizer)
        assert recipe.data.verifier is not None  # the recipe requires a reward model or a verifier
        verifier = verifier_of(recipe.data.verifier, recipe.sampling.max_tokens)
        return VerifierJudge(GuardedReward(verifier, every=recipe.probes_every), base.encoder)

    def _mixed_in(self) -> SftLoader | None:
        """Return the loader of examples for the mix, and record their files."""
        recipe, base = self.resolved.recipe, self.base
        if recipe.mix is None:
            return None
        data, rows = recipe.mix.data, recipe.mix.rows
        read = read_training_data(data)
        self.data = self.data.model_copy(update={"files": (*self.data.files, *read.manifest.files)})
        row_tokens = min(data.row_tokens, base.config.max_position_embeddings)
        examples = tokenise(
            read.training,
            base.encoder,
            row_tokens=row_tokens,
            options=data.render,
            augmentation=data.augment,
            seed=recipe.seed,
        )
        order = row_order(data, rows=rows, seed=recipe.seed, row_tokens=row_tokens, layout=data.layout)
        return SftLoader(examples, order, rows_per_batch=rows // recipe.micro_batches)
