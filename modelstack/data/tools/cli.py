"""`modelstack tool-data`: a recipe in, a training and a validation set for tool calling and their manifest out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tool_data(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RECIPE.toml [key=value ...]", help="A recipe, and keys over it.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the sets and manifest.json.")],
) -> None:
    """Make training and validation data for tool calling; the same recipe gives the same bytes."""
    from rich.console import Console

    from modelstack.data.tools.build import build
    from modelstack.data.tools.recipe import ToolDataRecipe
    from modelstack.recipe_file import read_recipe

    file, *overrides = arguments
    console = Console()
    recipe = read_recipe(ToolDataRecipe, Path(file), overrides)

    def report(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    manifest = build(recipe, out, report)
    for name in ("train", "validation"):
        part = manifest[name]
        report(
            f"{name}: {part['examples']:,} examples, about {part['tokens_estimated']:,} tokens, "
            f"{part['abstention_share']:.1%} abstain, {part['gold_functions']:,} functions called"
        )
    dropped = manifest["decontamination"]["train"]["dropped"]
    report("repeated an evaluation and were dropped: " + ", ".join(f"{n} ({rule})" for rule, n in dropped.items()))
