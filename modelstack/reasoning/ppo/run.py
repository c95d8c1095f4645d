"""PPO from a recipe to a stage, on fine-tuning's loop, guard and checkpoints.

The policy samples, a reward model or a verifier judges, a critic learns what to expect, and the policy moves by
what was better than expected, held to where it began by a price on every token. The stage holds the policy; the
critic lives in the run's checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.posttrain.base import Base
from modelstack.posttrain.driver import TuningPlace, claimed, guarded_run, take_steps, tuning_place
from modelstack.posttrain.resolving import resolved_parts
from modelstack.posttrain.sealing import moved_weights, seal_training, write_trained
from modelstack.posttrain.stages.record import Evaluation, Measurement
from modelstack.posttrain.stages.stage import Stage, open_stage
from modelstack.posttrain.starting_point import StartingPoint, starting_point
from modelstack.posttrain.values_hook import REWARDS_FILE, RewardsHook
from modelstack.reasoning.policy.answers import BEFORE_FILE, REPLIES_FILE
from modelstack.reasoning.policy.data import PolicyTasks
from modelstack.reasoning.policy.log_probs import Reference
from modelstack.reasoning.policy.rewards_plot import REWARDS_PLOT, draw_rewards
from modelstack.reasoning.ppo.actor_critic import ActorCritic, actor_critic_state, critic_of
from modelstack.reasoning.ppo.data import read_ppo_data
from modelstack.reasoning.ppo.held_back import HeldBack
from modelstack.reasoning.ppo.judges import Judge, VerifierJudge, model_judge
from modelstack.reasoning.ppo.loader import PpoLoader
from modelstack.reasoning.ppo.mix import Mix, mix_of
from modelstack.reasoning.ppo.passes import PpoPasses
from modelstack.reasoning.ppo.recipe import FREE, PpoRecipe, PpoResolved
from modelstack.reasoning.sampling.equal_length_sampler import EqualLengthSampler
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.reasoning.verifiers.alarms import RewardHacked
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.sft.prepare import load_start
from modelstack.stability.supervisor import GuardedRun
from modelstack.train.loop import Hook, Run
from modelstack.train.schedules import schedule


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a run reads and starts from."""

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
    with tuning_place(recipe, path, console) as place:
        try:
            return _optimise(recipe, place)
        except RewardHacked as error:
            raise UserError(f"the run ends, as going on would teach a hack: {error}") from error


def _optimise(recipe: PpoRecipe, place: TuningPlace) -> Stage | None:
    start = starting_point(recipe.base, recipe.weights)
    reward = None if recipe.reward is None else open_stage(Path(recipe.reward))
    origin = None if reward is None else reward.origin
    resolved = PpoResolved(
        **resolved_parts(recipe, start), policy=recipe.policy_config, reward=origin, mix_sha256=_hashes(recipe)
    )
    if resolved.lora is not None and resolved.lora.dropout:
        raise UserError(
            f"lora.dropout is {resolved.lora.dropout}: a ratio of two policies with other weights left out is "
            f"noise, set it to 0"
        )
    if finished := claimed(resolved, place, FREE):
        return finished
    prepared = _prepare(resolved, start, reward, place)
    run, supervisor, loader = _assemble(resolved, prepared, place)
    if not take_steps(run, supervisor, place.display):
        return None
    return _finish(resolved, prepared, run, loader, place)


def _hashes(recipe: PpoRecipe) -> tuple[str, ...]:
    paths = [] if recipe.mix is None else [file.path for file in recipe.mix.data.training]
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise UserError(f"mix.data.training: {missing[0]} is not there")
    return tuple(sha256_of(path) for path in paths)


def _prepare(resolved: PpoResolved, start: StartingPoint, reward: Stage | None, place: TuningPlace) -> _Prepared:
    recipe = resolved.recipe
    data = read_ppo_data(recipe)
    with place.display.preparing() as told:
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
        before = held_back.before(place.path / BEFORE_FILE)
    return _Prepared(reward, base, data, judge, mix_of(recipe, base), held_back, before)


def _assemble(resolved: PpoResolved, prepared: _Prepared, place: TuningPlace) -> tuple[Run, GuardedRun, PpoLoader]:
    recipe, base = resolved.recipe, prepared.base
    n_steps = recipe.n_steps(len(prepared.data.training))
    model = ActorCritic(base.model, critic_of(base.model, recipe, resolved.lora, prepared.reward))
    passes = PpoPasses(model, resolved.policy, recipe.critic, recipe.sampling.temperature)
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
        "metrics": place.metrics,
        "rewards": RewardsHook(place.path / REWARDS_FILE, passes),
    }
    factor = schedule(recipe.schedule.over(n_steps))
    return *guarded_run(recipe, state, loader, n_steps, factor, place.folder, place.event, hooks), loader


def _finish(resolved: PpoResolved, prepared: _Prepared, run: Run, loader: PpoLoader, place: TuningPlace) -> Stage:
    """Write, measure and seal; done again from the last checkpoint where a process is killed meanwhile."""
    recipe, base = resolved.recipe, prepared.base
    with place.display.preparing() as told:
        told("writing what was trained")
        parts = write_trained(base.model, base.tokenizer, resolved, place.path)
        told("answering held-back tasks")
        after = prepared.held_back.after(place.path / REPLIES_FILE)
    parts += [REPLIES_FILE] if after else []
    draw_rewards(place.path / REWARDS_FILE, place.path / REWARDS_PLOT)
    manifest = prepared.data.manifest
    if prepared.mix is not None:
        manifest = manifest.model_copy(update={"files": (*manifest.files, *prepared.mix.files)})
    judge = recipe.data.verifier if resolved.reward is None else f"reward model {resolved.reward.name}"
    return seal_training(
        resolved,
        run,
        base.model,
        place,
        kind="reasoning",
        what=(
            f"PPO ({judge}) of {resolved.parent.name}, {moved_weights(resolved.lora)}: {run.state.step:,} steps "
            f"of {recipe.rows} replies, {recipe.passes} passes over batches of {recipe.sampling.n_replies}, from "
            f"{len(prepared.data.training):,} prompts."
        ),
        data=manifest,
        evaluation=Evaluation(before=prepared.before, after=after),
        n_tokens=loader.n_tokens,
        parts=[*parts, REWARDS_FILE, REWARDS_PLOT],
    )
