"""Reinforcement learning from a recipe to a stage, on fine-tuning's loop, guard and checkpoints.

The model samples, a verifier judges, the policy gradient follows: GRPO and its relatives, on one device. Canaries
are on: a verifier that pays for a known hack, or for a task that cannot be done, ends the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from rich.console import Console

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.inference.engine import EngineError
from modelstack.preferences.rewards_hook import REWARDS_FILE, RewardsHook
from modelstack.reasoning.answers import answer, measured_before
from modelstack.reasoning.episode_worlds import opened_worlds
from modelstack.reasoning.llama_sampler import LlamaSampler, shared_prefix
from modelstack.reasoning.own_sampler import Episodes, own_sampler
from modelstack.reasoning.policy_data import PolicyTasks, read_policy_data
from modelstack.reasoning.policy_passes import PolicyPasses, Reference
from modelstack.reasoning.policy_tasks import PolicyTask
from modelstack.reasoning.recipe import FREE, PolicyRecipe, PolicyResolved
from modelstack.reasoning.rewards_plot import REWARDS_PLOT, draw_rewards
from modelstack.reasoning.rollout_loader import RolloutLoader
from modelstack.reasoning.sampled import Sampler
from modelstack.reasoning.task_verifiers import verifier_of
from modelstack.reasoning.verifiers.alarms import RewardHacked
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.runs.folder import RunFolder
from modelstack.runs.progress import Display
from modelstack.runs.report import machine_facts
from modelstack.sft.assemble import trained_state
from modelstack.sft.base import Base
from modelstack.sft.finish import moved_weights, training_metrics, versions, write_trained
from modelstack.sft.prepare import load_start
from modelstack.sft.run import claimed, resolved_parts, take_steps
from modelstack.sft.stage import Stage, seal
from modelstack.sft.stage_record import Evaluation, Measurement, StageRecord
from modelstack.sft.starting_point import StartingPoint, starting_point
from modelstack.sft.tuning_run import guarded_run, held_folder, logged, steps_of
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.curves import CURVES_FILE, PLOT_FILE, write_curves
from modelstack.train.loop import Hook, Run
from modelstack.train.metrics import METRICS_FILE, Metrics
from modelstack.train.schedules import schedule

BEFORE_FILE, REPLIES_FILE = "before.json", "replies-after.jsonl"


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
    with held_folder(recipe, path) as folder:
        try:
            return _reinforce(recipe, folder, Display(console))
        except EngineError as error:
            raise UserError(f"llama.cpp cannot sample: {error}") from error
        except RewardHacked as error:
            raise UserError(f"the run ends, as going on would teach a hack: {error}") from error


def _reinforce(recipe: PolicyRecipe, folder: RunFolder, display: Display) -> Stage | None:
    start = starting_point(recipe.base, recipe.weights)
    resolved = PolicyResolved(**resolved_parts(recipe, start))
    if finished := claimed(resolved, folder, display, FREE):
        return finished
    data = read_policy_data(recipe)
    reward = GuardedReward(verifier_of(recipe.data.verifier, recipe.max_tokens), every=recipe.probes_every)
    with ExitStack() as stack:
        episodes = None
        if recipe.episodes is not None:
            episodes = Episodes(stack.enter_context(opened_worlds(recipe.episodes)), recipe.episodes)
            data = data.prepared(episodes.worlds)
        return _trained(start, resolved, data, reward, episodes, folder, display)


def _trained(
    start: StartingPoint,
    resolved: PolicyResolved,
    data: PolicyTasks,
    reward: GuardedReward,
    episodes: Episodes | None,
    folder: RunFolder,
    display: Display,
) -> Stage | None:
    recipe = resolved.recipe
    with display.preparing() as told:
        told("loading the base")
        base = load_start(recipe, resolved.lora, start)
        greedy = _own_sampler(base, recipe, episodes, temperature=0.0)
        told("answering held-back tasks")
        before = measured_before(folder.path / BEFORE_FILE, base, data.held_back, greedy, recipe, reward)
    metrics, on_event = logged(folder, display)
    with ExitStack() as stack:
        sampler = _sampler(base, recipe, data.training, episodes, stack)
        loader = RolloutLoader(
            sampler, data.training, base.encoder, reward, recipe.sampling, recipe.seed, recipe.rows
        )
        run, supervisor = _assemble(resolved, base, loader, len(data.training), folder, metrics, on_event)
        if not take_steps(run, supervisor, display, lambda: run.state.step >= run.config.n_steps):
            return None
    metrics.close()
    model = cast(CausalLM, run.state.model)
    with display.preparing() as told:
        told("writing what was trained")
        parts = write_trained(
            model,
            resolved.lora,
            base.tokenizer,
            folder.path,
            name=recipe.name,
            base_sha256=resolved.base_sha256,
        )
        told("answering held-back tasks")
        after: tuple[Measurement, ...] = ()
        if data.held_back:
            figure, replies = answer(base, data.held_back, greedy, reward)
            after = (figure,)
            with replacing(folder.path / REPLIES_FILE) as temporary:
                temporary.write_text("".join(json.dumps(reply) + "\n" for reply in replies), encoding="utf-8")
            parts.append(REPLIES_FILE)
    write_curves(folder.metrics, folder.path)
    draw_rewards(folder.path / REWARDS_FILE, folder.path / REWARDS_PLOT)
    parts += [METRICS_FILE, REWARDS_FILE, REWARDS_PLOT, CURVES_FILE, PLOT_FILE]
    record = StageRecord(
        kind="reasoning",
        name=recipe.name,
        what=(
            f"Reinforcement learning ({recipe.algorithm}, {recipe.data.verifier}) of {start.parent.name}, "
            f"{moved_weights(resolved.lora)}: {run.state.step:,} steps of {recipe.rows} prompts with "
            f"{recipe.sampling.group} replies each, from {len(data.training):,} tasks."
        ),
        parents=(start.parent,),
        base_sha256=start.sha256,
        recipe=resolved.portable,
        recipe_sha256=resolved.fingerprint,
        seed=recipe.seed,
        data=data.manifest,
        evaluation=Evaluation(before=before, after=after),
        metrics=training_metrics(run.state, model, loader.n_tokens, folder),
        versions=versions() | machine_facts(next(model.parameters()).device),
    )
    stage = seal(folder.path, record, parts)
    display.say(f"{folder.path}: {record.what}")
    for name, each in (("before", before), ("after", after)):
        for figure in each:
            display.say(f"  {figure.name}, {name}: {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})")
    return stage


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
    loader: RolloutLoader,
    n_tasks: int,
    folder: RunFolder,
    metrics: Metrics,
    on_event: Callable[[str], None],
) -> tuple[Run, GuardedRun]:
    recipe = resolved.recipe
    n_steps = steps_of(recipe, n_tasks)
    state = trained_state(base.model, recipe, resolved.lora)
    config = recipe.policy_config
    reference = Reference(base.model) if config.kl is not None or recipe.watch_kl else None
    passes = PolicyPasses(base.model, config, recipe.sampling.temperature, reference, recipe.correction)
    state.passes = passes
    hooks: dict[str, Hook] = {
        "metrics": metrics,
        "rewards": RewardsHook(folder.path / REWARDS_FILE, passes),
    }
    factor = schedule(recipe.schedule.over(n_steps))
    return guarded_run(recipe, state, loader, n_steps, factor, folder, on_event, hooks)
