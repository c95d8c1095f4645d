"""What the commands have in common that train a model by a recipe: `sft`, `prefer`, `reinforce`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from modelstack.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from modelstack.posttrain.recipe import TuningRecipe
    from modelstack.posttrain.stages.stage import Stage

Recipe = TypeVar("Recipe", bound="TuningRecipe")
Arguments = Annotated[
    list[str], typer.Argument(metavar="RECIPE.toml [key=value ...]", help="A recipe, and keys over it.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run and its stage; else runs/NAME.")]


def run_recipe(
    kind: type[Recipe],
    run: Callable[[Recipe, Path, Console], Stage | None],
    arguments: Sequence[str],
    out: Path | None,
) -> None:
    """Read a recipe and run it; a run that was asked to stop ends the command with its own status.

    Raises:
        UserError: The recipe is wrong, or the run's guard ended it.
    """
    from rich.console import Console

    from modelstack.recipe_file import read_recipe
    from modelstack.stability.supervisor import TrainingStopped
    from modelstack.train.run.cli import STOPPED

    file, *overrides = arguments
    recipe = read_recipe(kind, Path(file), overrides)
    try:
        stage = run(recipe, out or Path("runs") / recipe.name, Console())
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    if stage is None:
        raise typer.Exit(STOPPED)
