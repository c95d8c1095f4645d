"""Arguments of the commands that follow a recipe, and the run of a recipe that trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from pydantic import BaseModel

from modelstack.errors import UserError
from modelstack.recipe_file import read_recipe
from modelstack.shipped_recipes import recipe_path

if TYPE_CHECKING:
    from rich.console import Console

    from modelstack.posttrain.recipe import TuningRecipe
    from modelstack.posttrain.stages.stage import Stage

Recipe = TypeVar("Recipe", bound=BaseModel)
Tuning = TypeVar("Tuning", bound="TuningRecipe")
MODELS = {
    "data run": "modelstack.data.pipeline.recipe:DataRecipe",
    "data mix": "modelstack.data.mix:MixRecipe",
    "data synthesise": "modelstack.data.synthetic.recipe:SyntheticRecipe",
    "data tools": "modelstack.data.tools.recipe:ToolDataRecipe",
    "tokenizer train": "modelstack.tokenizer.training:TokenizerConfig",
    "train": "modelstack.train.run.recipe:RunRecipe",
    "train sweep": "modelstack.train.run.sweep:SweepRecipe",
    "sft": "modelstack.sft.recipe:SftRecipe",
    "prefer": "modelstack.preferences.recipe:PreferenceRecipe",
    "reward": "modelstack.preferences.reward.recipe:RewardRecipe",
    "reinforce": "modelstack.reasoning.policy.recipe:PolicyRecipe",
    "ppo": "modelstack.reasoning.ppo.recipe:PpoRecipe",
    "sample": "modelstack.reasoning.rejection.recipe:SampleRecipe",
    "distil": "modelstack.reasoning.distil.recipe:DistilRecipe",
    "merge": "modelstack.reasoning.merging.recipe:MergeRecipe",
}
"""Model of the recipe of each command, as module and class: a module is imported when its command needs it."""
Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE [key=value ...]", help="A shipped recipe by name or a .toml file, and keys over it."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; else runs/NAME of the recipe.")]


def recipe_model(command: str) -> type[BaseModel]:
    """Return the model of a command's recipe."""
    module, _, name = MODELS[command].partition(":")
    return getattr(import_module(module), name)


def read_arguments(kind: type[Recipe], command: str, arguments: Sequence[str]) -> Recipe:
    """Return the recipe given by a command's arguments, with the overriding keys applied.

    Raises:
        UserError: The recipe does not exist or is not valid.
    """
    given, *overrides = arguments
    return read_recipe(kind, recipe_path(given, command), overrides)


def default_out(out: Path | None, name: str) -> Path:
    """Return the given folder of a run, or the default one for the recipe's name."""
    return out or Path("runs") / name


def run_recipe(
    kind: type[Tuning],
    run: Callable[[Tuning, Path, Console], Stage | None],
    command: str,
    arguments: Sequence[str],
    out: Path | None,
) -> None:
    """Run a training recipe; a run stopped on request ends the command with status `STOPPED`.

    Raises:
        UserError: The recipe is not valid, or the run's guard stopped it.
    """
    from rich.console import Console

    from modelstack.stability.supervisor import TrainingStopped
    from modelstack.train.run.stopping import STOPPED

    recipe = read_arguments(kind, command, arguments)
    try:
        stage = run(recipe, default_out(out, recipe.name), Console())
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    if stage is None:
        raise typer.Exit(STOPPED)
