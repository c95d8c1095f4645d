"""`modelstack sft`: a recipe in, a stage out. `modelstack merge`: of an adapter a model. `modelstack lineage`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelstack.errors import UserError


def sft(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RECIPE.toml [key=value ...]", help="A recipe, and keys over it.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run and its stage; else runs/NAME.")
    ] = None,
) -> None:
    """Fine-tune a model on examples, LoRA or all weights; the same command goes on where a run was stopped."""
    from rich.console import Console

    from modelstack.recipe_file import read_recipe
    from modelstack.runs.cli import STOPPED
    from modelstack.sft.recipe import SftRecipe
    from modelstack.sft.run import fine_tune
    from modelstack.stability.supervisor import TrainingStopped

    file, *overrides = arguments
    recipe = read_recipe(SftRecipe, Path(file), overrides)
    try:
        stage = fine_tune(recipe, out or Path("runs") / recipe.name, Console())
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    if stage is None:
        raise typer.Exit(STOPPED)


def merge(
    stage: Annotated[Path, typer.Argument(help="Folder of a stage with an adapter.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new stage.")],
    weights: Annotated[
        Path | None, typer.Option(help="What the adapter goes on; else where its own run had it from.")
    ] = None,
    gguf_type: Annotated[
        str | None, typer.Option("--gguf", help="Write model.gguf too, in these numbers: f16, q8_0, q4_1, ...")
    ] = None,
) -> None:
    """Merge a stage's adapter into its base: a checkpoint, and a quantised file for llama.cpp, as a new stage."""
    from modelstack.sft.merge_stage import merge_stage

    merged = merge_stage(stage, out, weights=weights, gguf_type=gguf_type)
    typer.echo(f"{out}: {merged.record.what}")


def lineage(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Stages, or folders that have some in them.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the stages as JSON.")] = False,
) -> None:
    """Draw which stage came of which, each held against its record; a damaged one ends with status 1."""
    import json

    from rich.console import Console

    from modelstack.sft import lineage as stages

    nodes = stages.lineage(stages.find_stages(folders))
    if as_json:
        typer.echo(json.dumps(stages.as_json(nodes), indent=1))
    else:
        Console().print(stages.tree(nodes))
    damaged = [node for node in nodes.values() if node.state == "damaged"]
    for node in damaged:
        typer.secho(f"damaged: {node.name} in {node.path}: {'; '.join(node.faults)}", err=True, fg="red")
    if damaged:
        raise typer.Exit(1)
