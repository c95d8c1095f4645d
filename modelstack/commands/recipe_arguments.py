"""Arguments of the commands that follow a recipe, and the run of a recipe that trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import BaseModel

from modelstack.errors import UserError
from modelstack.recipe_file import read_recipe
from modelstack.shipped_recipes import recipe_path

if TYPE_CHECKING:
    from rich.console import Console

    from modelstack.posttrain.stages.stage import Stage

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
    "drafter": "modelstack.reasoning.drafter.recipe:DrafterRecipe",
    "merge": "modelstack.reasoning.merging.recipe:MergeRecipe",
    "guard": "modelstack.align.guard_training.recipe:GuardRecipe",
    "sae": "modelstack.align.sae.sae_recipe:SaeRecipe",
    "pipeline": "modelstack.pipeline.recipe:PipelineRecipe",
}
"""Model of the recipe of each command, as module and class: a module is imported when its command needs it."""
Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE [key=value ...]", help="A shipped recipe by name or a .toml file, and keys over it."
    ),
]


def print_keys(context: typer.Context, as_text: bool | None) -> None:
    """Print the keys of the command's recipe and end the command; `as_text` False prints JSON, None nothing."""
    if as_text is not None:
        show_keys(recipe_model(context.command.name or ""), as_text=as_text)


def show_keys(model: type[BaseModel], *, as_text: bool) -> NoReturn:
    """Print the keys of a recipe, as text or as JSON, and end the command."""
    from modelstack.recipe_keys import keys_text, recipe_keys

    keys = recipe_keys(model)
    typer.echo(keys_text(keys) if as_text else json.dumps([asdict(key) for key in keys], indent=1))
    raise typer.Exit


Keys = Annotated[
    bool | None,
    typer.Option(
        "--keys/--keys-json",
        is_eager=True,
        callback=print_keys,
        show_default=False,
        help="List the keys of a recipe with type, default and meaning; or as JSON.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; else runs/NAME of the recipe.")]


def recipe_model(command: str) -> type[BaseModel]:
    """Return the model of a command's recipe."""
    module, _, name = MODELS[command].partition(":")
    return getattr(import_module(module), name)


def read_arguments(command: str, arguments: Sequence[str]) -> Any:
    """Return the recipe given by a command's arguments, with the overriding keys applied.

    Raises:
        UserError: The recipe does not exist or is not valid.
    """
    given, *overrides = arguments
    return read_recipe(recipe_model(command), recipe_path(given, command), overrides)


def default_out(out: Path | None, name: str) -> Path:
    """Return the given folder of a run, or the default one for the recipe's name."""
    return out or Path("runs") / name


def run_recipe(
    run: Callable[[Any, Path, Console], Stage | None],
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

    recipe = read_arguments(command, arguments)
    try:
        stage = run(recipe, default_out(out, recipe.name), Console())
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    if stage is None:
        raise typer.Exit(STOPPED)
