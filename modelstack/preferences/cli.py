"""`modelstack prefer`: preferences and a method in, a stage out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelstack.errors import UserError


def prefer(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RECIPE.toml [key=value ...]", help="A recipe, and keys over it.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run and its stage; else runs/NAME.")
    ] = None,
) -> None:
    """Train a model on preferences (DPO family, SimPO, CPO, ORPO, KTO); the same command goes on after a stop."""
    from rich.console import Console

    from modelstack.preferences.recipe import PreferenceRecipe
    from modelstack.preferences.run import prefer as run_recipe
    from modelstack.recipe_file import read_recipe
    from modelstack.runs.cli import STOPPED
    from modelstack.stability.supervisor import TrainingStopped

    file, *overrides = arguments
    recipe = read_recipe(PreferenceRecipe, Path(file), overrides)
    try:
        stage = run_recipe(recipe, out or Path("runs") / recipe.name, Console())
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    if stage is None:
        raise typer.Exit(STOPPED)
