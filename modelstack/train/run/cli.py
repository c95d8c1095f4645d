"""`modelstack train`: a recipe in, a trained model, its curves and its report out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from modelstack.errors import UserError

STOPPED = 130
"""Exit status of a run that was asked to stop: as a shell reports SIGINT."""


def train(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RECIPE.toml [key=value ...]", help="A recipe, and keys over it.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's folder; else runs/NAME of the recipe.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Spread the model over the layout's ranks without devices, and report."),
    ] = False,
) -> None:
    """Train a model by a recipe; the same command goes on where a run was stopped or killed.

    Several processes: `torchrun --nproc-per-node N -m modelstack train RECIPE.toml`.
    """
    from rich.console import Console

    from modelstack.recipe_file import read_recipe
    from modelstack.stability.supervisor import TrainingStopped
    from modelstack.train.run.recipe import RunRecipe, plan_of, resolve

    file, *overrides = arguments
    console = Console()
    recipe = read_recipe(RunRecipe, Path(file), overrides)
    plan = plan_of(recipe, Path(file).parent)
    resolved = resolve(recipe, plan)
    if dry_run:
        from modelstack.train.parallel.dry_run import dry_run as run_dry
        from modelstack.train.run.spread import parallel_config

        found = run_dry(
            resolved.model, parallel_config(resolved), context=resolved.row_tokens, optimizer=resolved.optimizer
        )
        console.print(found.text(), highlight=False, markup=False, soft_wrap=True)
        return
    from modelstack.train.run.launch import launch

    try:
        finished = launch(resolved, out or Path("runs") / recipe.name, plan, console)
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    if not finished:
        raise typer.Exit(STOPPED)


def sweep(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE.toml [key=value ...]", help="Budgets, sizes, and a run's recipe."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for runs.jsonl, the law and its plot.")],
    bootstrap: Annotated[int, typer.Option(help="Samples for the intervals; 0: none.", min=0)] = 100,
    on: Annotated[Literal["local", "ray"], typer.Option(help="Where the runs are taken.")] = "local",
) -> None:
    """Train several sizes at several budgets and fit a scaling law of your own; goes on where it was stopped."""
    from rich.console import Console

    from modelstack.decide.cli import fit_law
    from modelstack.recipe_file import read_recipe
    from modelstack.train.run.sweep import SweepRecipe
    from modelstack.train.run.sweep import sweep as take

    file, *overrides = arguments
    console = Console()
    recipe = read_recipe(SweepRecipe, Path(file), overrides)
    runs = take(
        recipe, out, lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True), on=on
    )
    fit_law(runs, out, bootstrap=bootstrap, seed=recipe.run.seed)
