"""Reinforcement learning from a recipe to a stage, on fine-tuning's loop, guard and checkpoints.

The model samples, a verifier judges, the policy gradient follows: GRPO and its relatives, on one device. Canaries
are on: a verifier that pays for a known hack, or for a task that cannot be done, ends the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from modelstack.errors import UserError
from modelstack.inference.engine import EngineError
from modelstack.posttrain.base import Base
from modelstack.posttrain.driver import TuningPlace, claimed, guarded_run, take_steps, tuning_place
from modelstack.posttrain.resolving import resolved_parts
from modelstack.posttrain.sealing import moved_weights, seal_training, write_trained
from modelstack.posttrain.stages.record import Evaluation
from modelstack.posttrain.stages.stage import Stage
from modelstack.posttrain.starting_point import StartingPoint, starting_point
from modelstack.posttrain.values_hook import REWARDS_FILE, RewardsHook
from modelstack.reasoning.episodes.worlds import opened_worlds
from modelstack.reasoning.policy.answers import BEFORE_FILE, REPLIES_FILE, measured_after, measured_before
from modelstack.reasoning.policy.data import PolicyTasks, read_policy_data
from modelstack.reasoning.policy.log_probs import PolicyLogProbs, Reference
from modelstack.reasoning.policy.own_sampler import Episodes, own_sampler
from modelstack.reasoning.policy.passes import PolicyPasses
from modelstack.reasoning.policy.recipe import FREE, PolicyRecipe, PolicyResolved
from modelstack.reasoning.policy.rewards_plot import REWARDS_PLOT, draw_rewards
from modelstack.reasoning.policy.rollout_loader import RolloutLoader
from modelstack.reasoning.sampling.llama.sampler import LlamaSampler, shared_prefix
from modelstack.reasoning.sampling.sampled import Sampler
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.reasoning.verifiers.alarms import RewardHacked
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.sft.assemble import trained_state
from modelstack.sft.prepare import load_start
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.loop import Hook, Run
from modelstack.train.schedules import schedule


def reinforce(recipe: PolicyRecipe, path: Path, console: Console) -> Stage | None:
    """Run a recipe, or go on with it; the stage when it came to its end, None when it was asked to stop.

    Args:
        recipe: What to do.
        path: The run's folder, which becomes the stage's.
        console: To show on.

    Raises:
        UserError: Parts do not fit together, the folder holds another run, or the reward was hacked.
        TrainingStopped: The guard ended it.
    """
    with tuning_place(recipe, path, console) as place:
        try:
            return _reinforce(recipe, place)
        except EngineError as error:
            raise UserError(f"llama.cpp cannot sample: {error}") from error
        except RewardHacked as error:
            raise UserError(f"the run ends, as going on would teach a hack: {error}") from error


def _reinforce(recipe: PolicyRecipe, place: TuningPlace) -> Stage | None:
    start = starting_point(recipe.base, recipe.weights)
    resolved = PolicyResolved(**resolved_parts(recipe, start), policy=recipe.policy_config)
    if recipe.rollout.n_steps > 1 and resolved.lora is not None and resolved.lora.dropout:
        raise UserError(
            f"lora.dropout is {resolved.lora.dropout} and a rollout is learnt from in {recipe.rollout.n_steps} "
            f"steps: a ratio of two policies with other weights left out is noise, set it to 0"
        )
    if finished := claimed(resolved, place, FREE):
        return finished
    data = read_policy_data(recipe)
    reward = GuardedReward(verifier_of(recipe.data.verifier, recipe.max_tokens), every=recipe.probes_every)
    with ExitStack() as stack:
        episodes = None
        if recipe.episodes is not None:
            episodes = Episodes(stack.enter_context(opened_worlds(recipe.episodes)), recipe.episodes)
            data = data.prepared(episodes.worlds)
        return _trained(start, resolved, data, reward, episodes, place)


def _trained(
    start: StartingPoint,
    resolved: PolicyResolved,
    data: PolicyTasks,
    reward: GuardedReward,
    episodes: Episodes | None,
    place: TuningPlace,
) -> Stage | None:
    recipe = resolved.recipe
    with place.display.preparing() as told:
        told("loading the base")
        base = load_start(recipe, resolved.lora, start)
        greedy = _own_sampler(base, recipe, episodes, temperature=0.0)
        told("answering held-back tasks")
        before = measured_before(place.path / BEFORE_FILE, base, data.held_back, greedy, recipe, reward)
    with ExitStack() as stack:
        sampler = _sampler(base, recipe, data.training, episodes, stack)
        run, supervisor, loader = _assemble(resolved, base, data.training, sampler, reward, place)
        if not take_steps(run, supervisor, place.display):
            return None
    with place.display.preparing() as told:
        told("writing what was trained")
        parts = write_trained(base.model, base.tokenizer, resolved, place.path)
        told("answering held-back tasks")
        after = measured_after(place.path / REPLIES_FILE, base, data.held_back, greedy, reward)
    parts += [REPLIES_FILE] if after else []
    draw_rewards(place.path / REWARDS_FILE, place.path / REWARDS_PLOT)
    return seal_training(
        resolved,
        run,
        base.model,
        place,
        kind="reasoning",
        what=(
            f"Reinforcement learning ({recipe.algorithm}, {recipe.data.verifier}) of {resolved.parent.name}, "
            f"{moved_weights(resolved.lora)}: {run.state.step:,} steps of {recipe.rows} prompts with "
            f"{recipe.sampling.group} replies each{_reused(recipe)}, from {len(data.training):,} tasks."
        ),
        data=data.manifest,
        evaluation=Evaluation(before=before, after=after),
        n_tokens=loader.n_tokens,
        parts=[*parts, REWARDS_FILE, REWARDS_PLOT],
    )


def _reused(recipe: PolicyRecipe) -> str:
    plan = recipe.rollout
    if plan.n_steps == 1:
        return ""
    return f", {plan.n_steps} steps on a rollout of {plan.minibatches * recipe.rows} prompts"


def _own_sampler(base: Base, recipe: PolicyRecipe, episodes: Episodes | None, temperature: float) -> Sampler:
    plan = recipe.sampling
    return own_sampler(
        base.model,
        base.encoder,
        max_tokens=plan.max_tokens,
        temperature=temperature,
        with_grammar=plan.grammar,
        episodes=episodes,
    )


def _sampler(
    base: Base,
    recipe: PolicyRecipe,
    tasks: Sequence[PolicyTask],
    episodes: Episodes | None,
    stack: ExitStack,
) -> Sampler:
    """Return what samples replies; the stack gives its memory back."""
    plan = recipe.sampling
    if recipe.llama is None:
        return _own_sampler(base, recipe, episodes, plan.temperature)
    sampler = LlamaSampler(
        base,
        end_ids=frozenset(base.encoder.end_ids),
        max_tokens=plan.max_tokens,
        temperature=plan.temperature,
        plan=recipe.llama,
        prefix=shared_prefix([task.prompt_ids(base.encoder) for task in tasks]),
    )
    return stack.enter_context(sampler)


def _assemble(
    resolved: PolicyResolved,
    base: Base,
    tasks: Sequence[PolicyTask],
    sampler: Sampler,
    reward: GuardedReward,
    place: TuningPlace,
) -> tuple[Run, GuardedRun, RolloutLoader]:
    recipe, config = resolved.recipe, resolved.policy
    n_steps = recipe.n_steps(len(tasks))
    state = trained_state(base.model, recipe, resolved.lora)
    # After the state: its optimizer may have cast the weights.
    reference = Reference(base.model) if config.kl.coefficient > 0 or recipe.watch_kl else None
    log_probs = PolicyLogProbs(base.model, recipe.sampling.temperature, reference)
    passes = PolicyPasses(log_probs, config, recipe.correction)
    state.passes = passes
    loader = RolloutLoader(
        sampler,
        tasks,
        base.encoder,
        reward,
        config,
        recipe.sampling,
        recipe.seed,
        recipe.rows,
        rollout=recipe.rollout,
        log_probs=log_probs,
    )
    hooks: dict[str, Hook] = {
        "metrics": place.metrics,
        "rewards": RewardsHook(place.path / REWARDS_FILE, passes),
    }
    factor = schedule(recipe.schedule.over(n_steps))
    run, supervisor = guarded_run(recipe, state, loader, n_steps, factor, place.folder, place.event, hooks)
    supervisor.on_roll_back = lambda run: loader.discard_rollout()
    return run, supervisor, loader
