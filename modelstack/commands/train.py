"""Step 5: train a model from scratch, or several sizes for a scaling law."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from modelstack.commands.help import explained
from modelstack.commands.recipe_arguments import Arguments, Keys, Out, default_out, read_arguments
from modelstack.errors import UserError


@explained(
    reads="text, or the corpus in the package; a plan, where the recipe names one",
    writes="runs/NAME: model/, tokenizer/, shards/, checkpoints/, metrics.jsonl, report.md",
    example="modelstack train nano steps=200 name=short",
    then="modelstack export gguf runs/short/model short.gguf; several sizes: modelstack train sweep isoflop",
)
def train(
    arguments: Arguments,
    out: Out = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Spread the model over the layout's ranks without devices, and report."),
    ] = False,
    keys: Keys = None,
) -> None:
    """Train a model from scratch by a recipe; the same command resumes a run that was stopped or killed.

    Several processes: `torchrun --nproc-per-node N -m modelstack train RECIPE`.
    """
    from rich.console import Console

    from modelstack.stability.supervisor import TrainingStopped
    from modelstack.train.run.progress import Display
    from modelstack.train.run.recipe import RunRecipe, plan_of, resolve
    from modelstack.train.run.stopping import STOPPED

    console = Console()
    recipe: RunRecipe = read_arguments("train", arguments)
    # A plan's path is relative to the folder of a recipe file; the package's folder has no plans.
    plan = plan_of(recipe, Path(arguments[0]).parent if arguments[0].endswith(".toml") else Path())
    resolved = resolve(recipe, plan)
    if dry_run:
        from modelstack.train.parallel.dry_run import dry_run as run_dry
        from modelstack.train.run.spread import parallel_config

        found = run_dry(
            resolved.model, parallel_config(resolved), context=resolved.row_tokens, optimizer=resolved.optimizer
        )
        for line in found.text().splitlines():
            Display(console).say(line)
        return
    from modelstack.train.run.launch import launch

    try:
        finished = launch(resolved, default_out(out, recipe.name), plan, console)
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    if not finished:
        raise typer.Exit(STOPPED)


@explained(
    reads="text, or the corpus in the package",
    writes="runs/NAME: runs.jsonl, law.json and isoflop.png",
    example="modelstack train sweep isoflop",
    then="modelstack plan --law own --runs runs/isoflop/runs.jsonl --hours 24",
)
def sweep(
    arguments: Arguments,
    out: Out = None,
    bootstrap: Annotated[int, typer.Option(help="Samples for the intervals; 0: none.", min=0)] = 100,
    on: Annotated[Literal["local", "ray"], typer.Option(help="Location of the runs.")] = "local",
    keys: Keys = None,
) -> None:
    """Train several sizes at several budgets and fit a scaling law; the same command resumes it."""
    from rich.console import Console

    from modelstack.commands.decide import fit_law
    from modelstack.train.run.progress import Display
    from modelstack.train.run.sweep import SweepRecipe
    from modelstack.train.run.sweep import sweep as take

    console = Console()
    recipe: SweepRecipe = read_arguments("train sweep", arguments)
    folder = default_out(out, recipe.run.name)
    runs = take(recipe, folder, Display(console).say, on=on)
    fit_law(runs, folder, bootstrap=bootstrap, seed=recipe.run.seed)
