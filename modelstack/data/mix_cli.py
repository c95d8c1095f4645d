"""`modelstack mix`: what sources have and a mix in, a table of what each gives and a training's weights out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelstack.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from modelstack.data.mix import MixPlan


def mix(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[RECIPE.toml] [key=value ...] FOLDER...",
            help="A recipe of the mix, keys over it, and folders of token shards or of data runs.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the training recipe's part, TOML.")],
    characters_per_token: Annotated[
        float | None, typer.Option(min=0.1, help="Of data runs, which count characters.")
    ] = None,
) -> None:
    """Say how many tokens each source gives and how often it is repeated, and write a training's weights."""
    from rich.console import Console

    from modelstack.data.mix import MixRecipe, plan_mix
    from modelstack.data.mix_fragment import training_fragment
    from modelstack.data.source_tokens import tokens_of
    from modelstack.files import replacing
    from modelstack.recipe_file import read_recipe

    recipes = [argument for argument in arguments if argument.endswith(".toml") and "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).exists()]
    folders = [Path(argument) for argument in arguments if argument not in recipes and argument not in overrides]
    if len(recipes) > 1:
        raise UserError(f"one recipe is read, not {len(recipes)}: {', '.join(recipes)}")
    if not folders:
        raise UserError("no folder: name token shards or data runs behind the recipe")
    recipe = read_recipe(MixRecipe, Path(recipes[0]) if recipes else None, overrides)
    sources = tokens_of(folders, characters_per_token)
    plan = plan_mix(sources.tokens, recipe)
    fragment = training_fragment(plan, recipe, sources)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(fragment, encoding="utf-8")
    console = Console()
    console.print(_table(plan, sources.tokens))
    how = "told from characters, with those that a training holds out" if sources.is_estimate else "counted"
    console.print(f"tokens {how}; {out}", highlight=False, markup=False, soft_wrap=True)


def _table(plan: MixPlan, tokens: Mapping[str, int]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    parts = {"stable": plan.stable} | ({"anneal": plan.anneal} if plan.anneal else {})
    table = Table("source", header_style="bold")
    columns = ["tokens"]
    for name in parts:
        columns += [f"{name}: weight", "drawn", "epochs"]
    for column in [*columns, *(["epochs in all"] if plan.anneal else [])]:
        table.add_column(column, justify="right")
    for source, size in tokens.items():
        cells = [f"{size:,}"]
        for part in parts.values():
            drawn = part.tokens[source]
            cells += [f"{part.weights[source]:.4f}", f"{drawn:,.0f}", f"{part.epochs(tokens)[source]:.2f}"]
        table.add_row(escape(source), *cells, *([f"{plan.epochs[source]:.2f}"] if plan.anneal else []))
    table.add_section()
    totals = [cell for part in parts.values() for cell in ("", f"{sum(part.tokens.values()):,.0f}", "")]
    table.add_row("all", f"{sum(tokens.values()):,}", *totals)
    return table
