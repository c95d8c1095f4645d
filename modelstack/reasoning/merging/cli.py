"""`modelstack merge`: several models or adapters by a recipe; or one stage's adapter into its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelstack.errors import UserError
from modelstack.sft import cli as sft_cli


def merge(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE.toml [key=value ...] | STAGE OUT",
            help="A recipe and keys over it; or the folder of a stage with an adapter, and the new stage's.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of a recipe's stage; else runs/NAME.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Of a stage: what its adapter goes on; else where its own run had it from."),
    ] = None,
    gguf_type: Annotated[
        str | None,
        typer.Option("--gguf", help="Of a stage: write model.gguf too, in these numbers: f16, q8_0, q4_1, ..."),
    ] = None,
) -> None:
    """Merge models or LoRA adapters by a recipe; or a stage's adapter into its base. A new stage is written."""
    first, *others = arguments
    if Path(first).is_dir():
        folders = [*map(Path, others), *([] if out is None else [out])]
        if len(folders) != 1:
            raise UserError(f"{first} is a folder: give the new stage's behind it, and nothing else (STAGE OUT)")
        sft_cli.merge(Path(first), folders[0], weights, gguf_type)
        return
    if weights is not None or gguf_type is not None:
        raise UserError("--weights and --gguf are for a stage's folder; a recipe has keys for them, base and gguf")
    from rich.console import Console

    from modelstack.reasoning.merging.recipe import MergeRecipe
    from modelstack.reasoning.merging.run import merge as run_merge
    from modelstack.recipe_file import read_recipe

    recipe = read_recipe(MergeRecipe, Path(first), others)
    run_merge(recipe, out or Path("runs") / recipe.name, Console())
