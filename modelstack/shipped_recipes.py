"""Recipes in the package, found by command and name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modelstack.errors import UserError

ROOT = Path(__file__).parent / "recipes"
FOLDERS = {
    "data run": "data/run",
    "data mix": "data/mix",
    "data synthesise": "data/synthesise",
    "data tools": "data/tools",
    "train": "train",
    "train sweep": "train/sweep",
    "sft": "sft",
    "prefer": "preferences/prefer",
    "reward": "preferences/reward",
    "reinforce": "reasoning/reinforce",
    "sample": "reasoning/sample",
    "ppo": "reasoning/ppo",
    "distil": "reasoning/distil",
    "merge": "reasoning/merge",
    "drafter": "inference/drafter",
    "guard": "align/guard",
    "sae": "align/sae",
    "pipeline": "pipeline",
}
"""Folder of each command's recipes, below the folder of its step."""


@dataclass(frozen=True, slots=True)
class ShippedRecipe:
    """Recipe in the package."""

    command: str
    """Words of the command that runs it."""
    path: Path

    @property
    def name(self) -> str:
        """Folder and name, for example "train/nano"."""
        return self.path.relative_to(ROOT).with_suffix("").as_posix()

    @property
    def about(self) -> str:
        """First line of the recipe's comment."""
        with self.path.open(encoding="utf-8") as file:
            return file.readline().removeprefix("#").strip()

    def is_called(self, name: str) -> bool:
        """Return whether a name means this recipe: with or without its folders ("train/nano", "nano")."""
        return f"/{self.name}".endswith(f"/{name}")


def shipped_recipes(command: str | None = None) -> list[ShippedRecipe]:
    """Return the recipes of a command by name, or those of all commands in the order of the steps."""
    commands = FOLDERS if command is None else {command: FOLDERS[command]}
    return [
        ShippedRecipe(each, path)
        for each, folder in commands.items()
        for path in sorted((ROOT / folder).glob("*.toml"), key=lambda path: path.stem)
    ]


def shipped_recipe(name: str) -> ShippedRecipe:
    """Return the recipe with an unambiguous name.

    Raises:
        UserError: No recipe has the name, or several have it.
    """
    every = shipped_recipes()
    found = [recipe for recipe in every if recipe.is_called(name)]
    if len(found) > 1:
        raise UserError(
            f"recipe {name!r} is ambiguous: {', '.join(recipe.name for recipe in found)}. Name the folder too"
        )
    if not found:
        raise UserError(f"no shipped recipe is called {name!r}; {_nearest(name, every)}")
    return found[0]


def recipe_path(given: str, command: str) -> Path:
    """Return the recipe file given as a command's first argument: a path that ends in .toml, or a shipped name.

    Raises:
        UserError: The file does not exist, or the command has no recipe of that name.
    """
    own = shipped_recipes(command) if command in FOLDERS else []
    if given.endswith(".toml"):
        if not Path(given).is_file():
            raise UserError(f"recipe {given} does not exist; {_nearest(Path(given).stem, own)}")
        return Path(given)
    for recipe in own:
        if recipe.is_called(given):
            return recipe.path
    for recipe in shipped_recipes():
        if recipe.is_called(given):
            raise UserError(
                f"recipe {recipe.name} is for `modelstack {recipe.command}`, not `modelstack {command}`"
            )
    raise UserError(
        f"{given!r} is neither a recipe file (.toml) nor a shipped recipe of `modelstack {command}`; "
        f"{_nearest(given, own)}"
    )


def _nearest(name: str, recipes: Iterable[ShippedRecipe]) -> str:
    """Return a hint with the most similar names and the command that lists all."""
    names = {recipe.path.stem: recipe for recipe in recipes}
    near = difflib.get_close_matches(name.rpartition("/")[2], names, n=3, cutoff=0.0)
    return f"nearest shipped: {', '.join(near)}. `modelstack recipes` lists all"
