"""Reinforcement learning: the model samples, a verifier judges, and a policy gradient updates the weights.

Canaries are on: a verifier that rewards a known hack or an unsolvable task ends the run.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import torch
from rich.console import Console

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.inference.engine import EngineError
from modelstack.posttrain.base import Base
from modelstack.posttrain.driver import run_training
from modelstack.posttrain.resolving import resolved_parts
from modelstack.posttrain.sharding import copy_trained
from modelstack.posttrain.stages.record import Kind
from modelstack.posttrain.stages.stage import Stage
from modelstack.posttrain.starting_point import StartingPoint, computes_in_bf16, load_start
from modelstack.posttrain.training import Job, Report, Told, Training
from modelstack.posttrain.values_hook import REWARDS_FILE
from modelstack.reasoning.episodes.worlds import opened_worlds
from modelstack.reasoning.policy.log_probs import PolicyLogProbs
from modelstack.reasoning.policy.passes import PolicyPasses
from modelstack.reasoning.policy.recipe import PolicyRecipe, PolicyResolved
from modelstack.reasoning.policy.rollout_loader import RolloutLoader
from modelstack.reasoning.rollouts.held_back import REPLIES_FILE, HeldBack
from modelstack.reasoning.rollouts.judges import VerifierJudge
from modelstack.reasoning.rollouts.policy_sampler import Episodes, sampler_of
from modelstack.reasoning.rollouts.reference import Reference
from modelstack.reasoning.rollouts.rewards_plot import REWARDS_PLOT, draw_rewards
from modelstack.reasoning.rollouts.task_files import read_policy_tasks
from modelstack.reasoning.sampling.continuing import RowPolicy, TorchPolicy
from modelstack.reasoning.sampling.llama.policy import LlamaPolicy, shared_prefix
from modelstack.reasoning.sampling.sampled import Sampler
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.reasoning.verifiers.alarms import RewardHacked
from modelstack.reasoning.verifiers.canaries import GuardedReward


def reinforce(recipe: PolicyRecipe, path: Path, console: Console) -> Stage | None:
    """Train by verified rewards; see `run_training`.

    Raises:
        UserError: As for `run_training`, or if the reward was hacked, or llama.cpp cannot sample.
    """
    try:
        return run_training(PolicyGradient, recipe, path, console)
    except EngineError as error:
        raise UserError(f"llama.cpp cannot sample: {error}") from error
    except RewardHacked as error:
        raise UserError(f"the run stopped, because further training would teach a hack: {error}") from error


class PolicyGradient(Training[PolicyResolved]):
    """Training by rewards."""

    kind: ClassVar[Kind] = "reasoning"
    is_spread: ClassVar[bool] = True

    @classmethod
    def resolve(cls, recipe: PolicyRecipe, start: StartingPoint) -> PolicyResolved:
        """Return the recipe with every default and hash filled in.

        Raises:
            UserError: As for every training, or an adapter with dropout would take several steps on a rollout.
        """
        resolved = PolicyResolved(**resolved_parts(recipe, start), policy=recipe.policy_config)
        if recipe.rollout.n_steps > 1 and resolved.lora is not None and resolved.lora.dropout:
            raise UserError(
                f"lora.dropout is {resolved.lora.dropout} and a rollout has {recipe.rollout.n_steps} steps: "
                f"dropout makes the ratio of two policies noise, set it to 0"
            )
        return resolved

    def __init__(self, job: Job[PolicyResolved], told: Told) -> None:
        """Read the tasks, open the worlds of episodes, and load the base.

        The base samples, so every process holds it whole. Several processes share a second model, the trained one.
        """
        super().__init__(job, told)
        recipe = self.resolved.recipe
        verifier = recipe.data.verifier
        tasks = read_policy_tasks(recipe.data, verifier, max_validation=recipe.max_validation, seed=recipe.seed)
        self._reward = GuardedReward(verifier_of(verifier, recipe.max_tokens), every=recipe.probes_every)
        self._episodes: Episodes | None = None
        if recipe.episodes is not None:
            self._episodes = Episodes(job.held.enter_context(opened_worlds(recipe.episodes)), recipe.episodes)
            tasks = tasks.prepared(self._episodes.worlds)
        told("loading the base")
        self.base = load_start(recipe, self.resolved.lora, job.start)
        mesh = job.processes.mesh
        self.model = (
            self.base.model if mesh is None else load_start(recipe, self.resolved.lora, job.start, mesh).model
        )
        self._held_back = HeldBack(
            tasks.held_back,
            self.base.encoder,
            _sampler_on(TorchPolicy(self.base.model), self.base, recipe, temperature=0.0, episodes=self._episodes),
            VerifierJudge(self._reward, self.base.encoder),
            [recipe.max_tokens, recipe.sampling.grammar, recipe.episodes and recipe.episodes.model_dump()],
        )
        self.data = tasks.manifest
        self._tasks = tasks.training
        self._sampling = job.held.enter_context(ExitStack())
        """Closes engines that only training needs."""

    def measure(self, told: Told) -> None:
        """Measure held-back tasks in the first process; the others read its result."""
        told("answering held-back tasks")
        self.before = self.job.processes.first_then_others(lambda: self._held_back.before(self.job.folder))

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.resolved.recipe.n_steps(len(self._tasks))

    @property
    def micro_batches(self) -> int:
        """Number of prompts of a step that this process learns from.

        Raises:
            UserError: The number of prompts is not a multiple of the number of processes.
        """
        return self.job.processes.own(self.resolved.recipe.micro_batches, "rows")

    def parts(self) -> tuple[RolloutLoader, PolicyPasses]:
        """Return the loader of rollouts, and the passes of the algorithm."""
        recipe, config = self.resolved.recipe, self.resolved.policy
        sampled, model, temperature = self.base.model, cast(CausalLM, self.model), recipe.sampling.temperature
        is_sharded = model is not sampled
        if is_sharded and computes_in_bf16(recipe, self.resolved.lora):
            sampled.to(torch.bfloat16)
        reference = Reference(sampled) if config.kl.coefficient > 0 or recipe.watch_kl else None
        self._loader = RolloutLoader(
            self._sampler(),
            self._tasks,
            self.base.encoder,
            self._reward,
            config,
            recipe.sampling,
            recipe.seed,
            recipe.rows,
            rollout=recipe.rollout,
            log_probs=PolicyLogProbs(sampled, temperature, reference),
            processes=self.job.processes,
            refresh=(lambda: copy_trained(model, sampled)) if is_sharded else None,
        )
        log_probs = PolicyLogProbs(model, temperature, None, shares_prompts=not is_sharded)
        return self._loader, PolicyPasses(log_probs, config, recipe.correction)

    def after_roll_back(self) -> None:
        """Discard the rollout that was sampled with later weights."""
        self._loader.discard_rollout()

    def write(self) -> list[str]:
        """Release the sampler's memory and write the trained weights."""
        self._sampling.close()
        return super().write()

    def report(self, n_steps: int, told: Told) -> Report:
        """Measure held-back tasks and draw the rewards."""
        recipe, folder = self.resolved.recipe, self.job.folder
        told("answering held-back tasks")
        after = self._held_back.after(folder)
        draw_rewards(folder / REWARDS_FILE, folder / REWARDS_PLOT)
        plan = recipe.rollout
        reused = f", {plan.n_steps} steps on a rollout of {plan.minibatches * recipe.rows} prompts"
        what = (
            f"Reinforcement learning ({recipe.algorithm}, {recipe.data.verifier}) of {self.trained}: {n_steps:,} "
            f"steps of {recipe.rows} prompts with {recipe.sampling.group} replies each"
            f"{reused if plan.n_steps > 1 else ''}, from {len(self._tasks):,} tasks."
        )
        return Report(what, after, (REWARDS_PLOT, *([REPLIES_FILE] if after else [])))

    def _sampler(self) -> Sampler:
        """Return the sampler for training: on the trained model, on llama.cpp, or a pool of either."""
        recipe, base, prefix = self.resolved.recipe, self.base, tuple[int, ...]()
        if recipe.llama is not None:
            prefix = shared_prefix([task.prompt_ids(base.encoder) for task in self._tasks])
        if recipe.pool is not None:
            from modelstack.reasoning.sampling.sampler_pool import SamplerPool

            make = partial(_pooled_sampler, recipe=recipe, prefix=prefix)
            pool = SamplerPool(base, make, recipe.pool, threads=recipe.threads or 1)
            return self._sampling.enter_context(pool)
        if recipe.llama is None:
            return _sampler_on(TorchPolicy(base.model), base, recipe, episodes=self._episodes, one_by_one=True)
        llama = self._sampling.enter_context(LlamaPolicy(base, recipe.llama, prefix=prefix))
        return _sampler_on(llama, base, recipe, episodes=self._episodes)


def _pooled_sampler(base: Base, recipe: PolicyRecipe, prefix: tuple[int, ...]) -> Sampler:
    """Return the sampler of one actor, which ends with the actor's process."""
    policy = TorchPolicy(base.model) if recipe.llama is None else LlamaPolicy(base, recipe.llama, prefix=prefix)
    return _sampler_on(policy, base, recipe, one_by_one=True)


def _sampler_on(
    policy: RowPolicy,
    base: Base,
    recipe: PolicyRecipe,
    *,
    temperature: float | None = None,
    episodes: Episodes | None = None,
    one_by_one: bool = False,
) -> Sampler:
    """Return the sampler of a recipe, at its temperature unless another is given."""
    plan = recipe.sampling
    return sampler_of(
        policy,
        base.encoder,
        max_tokens=plan.max_tokens,
        temperature=plan.temperature if temperature is None else temperature,
        with_grammar=plan.grammar,
        episodes=episodes,
        one_by_one=one_by_one,
    )
