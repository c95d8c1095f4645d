"""Step 9: verifiable tasks, reinforcement learning, PPO, rejection sampling, distillation, merging."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from modelstack.commands.help import explained
from modelstack.commands.recipe_arguments import Arguments, Keys, Out, default_out, read_arguments, run_recipe
from modelstack.errors import UserError

if TYPE_CHECKING:
    from modelstack.reasoning.tasks.writing.written import Side, Source


class TaskKind(StrEnum):
    """Kinds of tasks."""

    gym = "gym"
    json = "json"
    effects = "effects"


class TaskSide(StrEnum):
    """Use of a task file; no prompt is on both sides, for any seed."""

    train = "train"
    held_back = "held-back"


class Form(StrEnum):
    """Form of an answer to a task of reasoning-gym."""

    marked = "marked"
    bare = "bare"
    equation = "equation"


@explained(
    reads="nothing; tasks of reasoning-gym need the extra `verifiers`",
    writes="one file of tasks, JSON lines",
    example="modelstack tasks json --out runs/tasks/json/train.jsonl --n 600",
    then="modelstack reinforce json base=model.gguf, after the same with --side held-back",
)
def tasks(
    kind: Annotated[TaskKind, typer.Argument(help="Puzzles of reasoning-gym, strict JSON, calls with effects.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file, JSONL.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of tasks.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same bytes.")] = 0,
    side: Annotated[TaskSide, typer.Option("--side", help="To train on, or held back.")] = TaskSide.train,
    canaries: Annotated[
        float,
        typer.Option("--canaries", min=0, max=0.5, help="Share of impossible tasks among those to train on."),
    ] = 0.02,
    gym: Annotated[str, typer.Option("--gym", help="gym: the generator.")] = "chain_sum",
    level: Annotated[int | None, typer.Option("--level", min=0, help="gym: the difficulty.")] = None,
    config: Annotated[str, typer.Option("--config", help="gym: settings of the generator, a JSON object.")] = "{}",
    form: Annotated[Form, typer.Option("--form", help="gym: how an answer is written.")] = Form.marked,
    shots: Annotated[int, typer.Option("--shots", min=0, help="gym: examples before the question.")] = 1,
) -> None:
    """Write verifiable tasks: puzzles of reasoning-gym, strict JSON, or calls with effects."""
    from rich.console import Console

    from modelstack.reasoning.tasks.writing.written import tasks_of, write_tasks
    from modelstack.terminal.tables import print_wrapped

    options = {"task": gym, "level": level, "config": _object(config), "form": form.value, "shots": shots}
    made = tasks_of(_source(kind, seed, options), cast("Side", side.value), n, seed, canaries)
    n_written = write_tasks(out, made)
    told = f"{out}: {n_written} tasks ({side.value}, seed {seed}); verifier: {kind.value}"
    print_wrapped(Console(), told, indent="  ")


@explained(
    reads="a model or a stage (`base`), and tasks (`data.training`) with their verifier",
    writes="runs/NAME, a stage: adapter/ and adapter.gguf, or model/; rewards.jsonl and its curves",
    example="modelstack reinforce json base=model.gguf",
    then="modelstack sample rejection, for examples of its right replies",
)
def reinforce(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Train a model by verified rewards (GRPO and its relatives); the same command resumes it."""
    from modelstack.reasoning.policy.run import reinforce as run

    run_recipe(run, "reinforce", arguments, out)


@explained(
    reads="a model or a stage (`base`), prompts (`data.training`), a reward model or a verifier",
    writes="runs/NAME, a stage: adapter/ and adapter.gguf, or model/; rewards.jsonl and its curves",
    example="modelstack ppo instructgpt base=model.gguf reward=runs/reward",
    then="modelstack stage lineage runs/ppo",
)
def ppo(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Train a model by PPO with a critic, against a reward model or a verifier; the same command resumes it."""
    from modelstack.reasoning.ppo.run import optimise

    run_recipe(optimise, "ppo", arguments, out)


@explained(
    reads="a model or a stage (`model`), and tasks (`tasks`) with their verifier",
    writes="runs/NAME: examples.jsonl, replies.jsonl, report.json",
    example="modelstack sample rejection model=runs/rl-json",
    then="modelstack distil gkd base=student.gguf",
)
def sample(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Sample replies to tasks and keep the correct ones as examples; the same command resumes it."""
    from rich.console import Console

    from modelstack.reasoning.rejection.recipe import SampleRecipe
    from modelstack.reasoning.rejection.run import sample as run
    from modelstack.terminal.progress_bars import progress_bars
    from modelstack.terminal.tables import print_wrapped
    from modelstack.train.run.stopping import STOPPED

    console = Console()
    recipe: SampleRecipe = read_arguments("sample", arguments)
    folder = default_out(out, recipe.name)

    def say(text: str) -> None:
        print_wrapped(console, text, indent="  ")

    with progress_bars(console) as told:
        found = run(recipe, folder, say, told)
    if found is None:
        raise typer.Exit(STOPPED)
    say(
        f"{folder}: {found['n_replies']:,} replies to {found['n_tasks']:,} tasks; kept {found['n_examples']:,} "
        f"examples of {found['n_tasks_with_examples']:,} tasks; dropped: "
        + (", ".join(f"{rule} {n:,}" for rule, n in found["dropped"].items()) or "none")
    )


@explained(
    reads="a student (`base`), a teacher with the same tokenizer, and examples (`data.training`)",
    writes="runs/NAME, a stage: adapter/ and adapter.gguf, or model/; divergences.jsonl",
    example="modelstack distil gkd base=student.gguf teacher=runs/rl-json",
    then="modelstack stage lineage runs/distil",
)
def distil(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Train a student on a teacher's distributions, on given texts or its own; the same command resumes it."""
    from modelstack.reasoning.distil.run import distil as run

    run_recipe(run, "distil", arguments, out)


@explained(
    reads="several models or LoRA adapters (`parents`), and their base",
    writes="runs/NAME, a stage: adapter/ or model/, and model.gguf where the recipe names a type",
    example="modelstack merge ties base=model.gguf",
    then="modelstack stage lineage runs/merged",
)
def merge(arguments: Arguments, out: Out = None, keys: Keys = None) -> None:
    """Merge models or LoRA adapters: linear, SLERP, task arithmetic, TIES, DARE, DELLA and others."""
    from rich.console import Console

    from modelstack.reasoning.merging.recipe import MergeRecipe
    from modelstack.reasoning.merging.run import merge as run

    recipe: MergeRecipe = read_arguments("merge", arguments)
    run(recipe, default_out(out, recipe.name), Console())


def _source(kind: TaskKind, seed: int, options: dict[str, Any]) -> Source:
    match kind:
        case TaskKind.gym:
            from modelstack.reasoning.tasks.writing.gym_tasks import GymSettings, gym_source

            return gym_source(GymSettings(**options), seed)
        case TaskKind.json:
            from modelstack.reasoning.tasks.writing.json_tasks import json_source

            return json_source()
        case TaskKind.effects:
            from modelstack.reasoning.tasks.writing.effect_tasks import effects_source

            return effects_source()


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--config is {text[:60]!r}, which is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"--config is {text[:60]!r}; it must be a JSON object such as '{{\"min_terms\": 2}}'")
    return found
