"""Recipes in the package: a list, and a copy to edit."""

from __future__ import annotations

from typing import Annotated

import typer

from modelstack.commands.help import AsJson, explained


@explained(
    reads="recipes in the package",
    writes="a table on the terminal: command, name, the first line of the recipe's comment",
    example="modelstack recipes",
    then="modelstack recipes show NAME; modelstack COMMAND NAME",
)
def recipes(as_json: AsJson = False) -> None:
    """List the shipped recipes by command."""
    from rich.console import Console

    from modelstack.shipped_recipes import shipped_recipes
    from modelstack.terminal.tables import Column, Table, print_json, print_tables

    rows = [(recipe.command, recipe.path.stem, recipe.about) for recipe in shipped_recipes()]
    table = Table((Column("command"), Column("recipe"), Column("about")), rows)
    if as_json:
        print_json(table.records())
    else:
        print_tables(Console(), table)


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
