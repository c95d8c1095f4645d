"""PPO from a recipe to a stage, on fine-tuning's loop, guard and checkpoints.

The policy samples, a reward model or a verifier judges, a critic learns what to expect, and the policy moves by
what was better than expected, held to where it began by a price on every token. The stage holds the policy; the
critic lives in the run's checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.preferences.rewards_hook import REWARDS_FILE, RewardsHook
from modelstack.reasoning.equal_length_sampler import EqualLengthSampler
from modelstack.reasoning.policy_data import PolicyTasks
from modelstack.reasoning.policy_passes import Reference
from modelstack.reasoning.ppo.actor_critic import ActorCritic, actor_critic_state, critic_of
from modelstack.reasoning.ppo.data import read_ppo_data
from modelstack.reasoning.ppo.held_back import BEFORE_FILE, REPLIES_FILE, HeldBack
from modelstack.reasoning.ppo.judges import Judge, VerifierJudge, model_judge
from modelstack.reasoning.ppo.loader import PpoLoader
from modelstack.reasoning.ppo.mix import Mix, mix_of
from modelstack.reasoning.ppo.passes import PpoPasses
from modelstack.reasoning.ppo.recipe import FREE, PpoRecipe, PpoResolved
from modelstack.reasoning.rewards_plot import REWARDS_PLOT, draw_rewards
from modelstack.reasoning.task_verifiers import verifier_of
from modelstack.reasoning.verifiers.alarms import RewardHacked
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.runs.folder import RunFolder
from modelstack.runs.progress import Display
from modelstack.runs.report import machine_facts
from modelstack.sft.base import Base
from modelstack.sft.finish import moved_weights, training_metrics, versions, write_trained
from modelstack.sft.prepare import load_start
from modelstack.sft.run import claimed, resolved_parts, take_steps
from modelstack.sft.stage import Stage, open_stage, seal
from modelstack.sft.stage_record import Evaluation, Measurement, StageRecord
from modelstack.sft.starting_point import StartingPoint, starting_point
from modelstack.sft.tuning_run import guarded_run, held_folder, logged
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.curves import CURVES_FILE, PLOT_FILE, write_curves
from modelstack.train.loop import Hook, Run
from modelstack.train.metrics import METRICS_FILE, Metrics
from modelstack.train.schedules import schedule


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a run reads and starts from."""

    start: StartingPoint
    reward: Stage | None
    base: Base
    data: PolicyTasks
    judge: Judge
    mix: Mix | None
    held_back: HeldBack
    before: tuple[Measurement, ...]


def optimise(recipe: PpoRecipe, path: Path, console: Console) -> Stage | None:
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
            return _optimise(recipe, folder, Display(console))
        except RewardHacked as error:
            raise UserError(f"the run ends, as going on would teach a hack: {error}") from error


def _optimise(recipe: PpoRecipe, folder: RunFolder, display: Display) -> Stage | None:
    start = starting_point(recipe.base, recipe.weights)
    reward = None if recipe.reward is None else open_stage(Path(recipe.reward))
    origin = None if reward is None else reward.origin
    resolved = PpoResolved(**resolved_parts(recipe, start), reward=origin, mix_sha256=_hashes(recipe))
    if resolved.lora is not None and resolved.lora.dropout:
        raise UserError(
            f"lora.dropout is {resolved.lora.dropout}: a ratio of two policies with other weights left out is "
            f"noise, set it to 0"
        )
    if finished := claimed(resolved, folder, display, FREE):
        return finished
    prepared = _prepare(resolved, start, reward, folder, display)
    metrics, on_event = logged(folder, display)
    run, supervisor, loader = _assemble(resolved, prepared, folder, metrics, on_event)
    if not take_steps(run, supervisor, display, lambda: run.state.step >= run.config.n_steps):
        return None
    metrics.close()
    return _finish(resolved, prepared, run, loader, folder, display)


def _hashes(recipe: PpoRecipe) -> tuple[str, ...]:
    paths = [] if recipe.mix is None else [file.path for file in recipe.mix.data.training]
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise UserError(f"mix.data.training: {missing[0]} is not there")
    return tuple(sha256_of(path) for path in paths)


def _prepare(
    resolved: PpoResolved, start: StartingPoint, reward: Stage | None, folder: RunFolder, display: Display
) -> _Prepared:
    recipe = resolved.recipe
    data = read_ppo_data(recipe)
    with display.preparing() as told:
        told("loading the base")
        base = load_start(recipe, resolved.lora, start)
        if reward is not None:
            told("loading the reward model")
            judge: Judge = model_judge(reward, base.model, base.tokenizer)
        else:
            assert recipe.data.verifier is not None  # the recipe has one of the two
            verifier = verifier_of(recipe.data.verifier, recipe.sampling.max_tokens)
            judge = VerifierJudge(GuardedReward(verifier, every=recipe.probes_every), base.encoder)
        told("answering held-back tasks")
        held_back = HeldBack(base, data.held_back, judge, recipe.sampling.max_tokens)
        before = held_back.before(folder.path / BEFORE_FILE)
    return _Prepared(start, reward, base, data, judge, mix_of(recipe, base), held_back, before)


def _assemble(
    resolved: PpoResolved,
    prepared: _Prepared,
    folder: RunFolder,
    metrics: Metrics,
    on_event: Callable[[str], None],
) -> tuple[Run, GuardedRun, PpoLoader]:
    recipe, base = resolved.recipe, prepared.base
    n_steps = recipe.n_steps(len(prepared.data.training))
    model = ActorCritic(base.model, critic_of(base.model, recipe, resolved.lora, prepared.reward))
    passes = PpoPasses(model, recipe.policy_config, recipe.critic, recipe.sampling.temperature)
    if recipe.mix is not None:
        passes.mix_coefficient = recipe.mix.coefficient
    state = actor_critic_state(model, recipe, resolved.lora, passes)
    plan = recipe.sampling
    loader = PpoLoader(
        EqualLengthSampler(base.model, frozenset(base.encoder.end_ids), plan.max_tokens, plan.temperature),
        prepared.data.training,
        base.encoder,
        prepared.judge,
        model,
        Reference(base.model),  # after the state: its optimizer may have cast the weights
        recipe,
        None if prepared.mix is None else prepared.mix.loader,
    )
    hooks: dict[str, Hook] = {
        "metrics": metrics,
        "rewards": RewardsHook(folder.path / REWARDS_FILE, passes),
    }
    factor = schedule(recipe.schedule.over(n_steps))
    return *guarded_run(recipe, state, loader, n_steps, factor, folder, on_event, hooks), loader


def _finish(
    resolved: PpoResolved,
    prepared: _Prepared,
    run: Run,
    loader: PpoLoader,
    folder: RunFolder,
    display: Display,
) -> Stage:
    """Write, measure and seal; done again from the last checkpoint where a process is killed meanwhile."""
    recipe, base, start = resolved.recipe, prepared.base, prepared.start
    with display.preparing() as told:
        told("writing what was trained")
        parts = write_trained(
            base.model,
            resolved.lora,
            base.tokenizer,
            folder.path,
            name=recipe.name,
            base_sha256=resolved.base_sha256,
        )
        told("answering held-back tasks")
        after = prepared.held_back.after(folder.path / REPLIES_FILE)
    parts += [REPLIES_FILE] if after else []
    write_curves(folder.metrics, folder.path)
    draw_rewards(folder.path / REWARDS_FILE, folder.path / REWARDS_PLOT)
    parts += [METRICS_FILE, REWARDS_FILE, REWARDS_PLOT, CURVES_FILE, PLOT_FILE]
    manifest = prepared.data.manifest
    if prepared.mix is not None:
        manifest = manifest.model_copy(update={"files": (*manifest.files, *prepared.mix.files)})
    judge = recipe.data.verifier if resolved.reward is None else f"reward model {resolved.reward.name}"
    record = StageRecord(
        kind="reasoning",
        name=recipe.name,
        what=(
            f"PPO ({judge}) of {start.parent.name}, {moved_weights(resolved.lora)}: {run.state.step:,} steps of "
            f"{recipe.rows} replies, {recipe.passes} passes over batches of {recipe.sampling.n_replies}, from "
            f"{len(prepared.data.training):,} prompts."
        ),
        parents=(start.parent,) if resolved.reward is None else (start.parent, resolved.reward),
        base_sha256=start.sha256,
        recipe=resolved.portable,
        recipe_sha256=resolved.fingerprint,
        seed=recipe.seed,
        data=manifest,
        evaluation=Evaluation(before=prepared.before, after=after),
        metrics=training_metrics(run.state, base.model, loader.n_tokens, folder),
        versions=versions() | machine_facts(base.model.lm_head.weight.device),
    )
    stage = seal(folder.path, record, parts)
    display.say(f"{folder.path}: {record.what}")
    for name, each in (("before", prepared.before), ("after", after)):
        for figure in each:
            display.say(f"  {figure.name}, {name}: {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})")
    return stage
