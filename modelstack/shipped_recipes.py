"""Recipes that the package carries: found by the command that runs them and by name."""

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
}
"""Folder of the recipes of each command, below the folder of its step."""


@dataclass(frozen=True, slots=True)
class ShippedRecipe:
    """A recipe in the package."""

    command: str
    """Words of the command that runs it."""
    path: Path

    @property
    def name(self) -> str:
        """Folder and name, like "train/nano"."""
        return self.path.relative_to(ROOT).with_suffix("").as_posix()

    @property
    def about(self) -> str:
        """The first line of its comment."""
        with self.path.open(encoding="utf-8") as file:
            return file.readline().removeprefix("#").strip()

    def is_called(self, name: str) -> bool:
        """Whether a name means this recipe: its own ("nano"), with or without its folders ("train/nano")."""
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
    """Return the recipe with a name that means no other one.

    Raises:
        UserError: No recipe has the name, or several have.
    """
    every = shipped_recipes()
    found = [recipe for recipe in every if recipe.is_called(name)]
    if len(found) > 1:
        raise UserError(
            f"recipe {name!r} is one of {', '.join(recipe.name for recipe in found)}: name the folder too"
        )
    if not found:
        raise UserError(f"no shipped recipe is called {name!r}; {_nearest(name, every)}")
    return found[0]


def recipe_path(given: str, command: str) -> Path:
    """Return the file that a command's first argument means: one that ends in .toml, or a shipped recipe by name.

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
    """Return the names that come nearest to one, and the command that lists all."""
    names = {recipe.path.stem: recipe for recipe in recipes}
    near = difflib.get_close_matches(name.rpartition("/")[2], names, n=3, cutoff=0.0)
    return f"nearest shipped: {', '.join(near)}. `modelstack recipes` lists all"
