"""Recipes in the package: a list, and a copy to edit."""

from __future__ import annotations

from typing import Annotated

import typer

from modelstack.commands.help import explained


@explained(
    reads="recipes in the package",
    writes="a table on the terminal: command, name, the first line of the recipe's comment",
    example="modelstack recipes",
    then="modelstack recipes show NAME; modelstack COMMAND NAME",
)
def recipes() -> None:
    """List the shipped recipes by command."""
    from itertools import groupby

    from modelstack.shipped_recipes import shipped_recipes

    for command, of_command in groupby(shipped_recipes(), lambda recipe: recipe.command):
        typer.echo(f"modelstack {command}")
        for recipe in of_command:
            typer.echo(f"  {recipe.path.stem:17} {recipe.about}")


@explained(
    reads="recipes in the package",
    writes="the recipe on standard output, comments included",
    example="modelstack recipes show sft/tools > mine.toml",
    then="modelstack sft mine.toml, after editing",
)
def show(
    name: Annotated[str, typer.Argument(help="Name, with folders where it is not the only one: nano, sft/tools.")],
) -> None:
    """Print a shipped recipe, to be copied and edited."""
    from modelstack.shipped_recipes import shipped_recipe

    typer.echo(shipped_recipe(name).path.read_text(encoding="utf-8"), nl=False)
