"""Stages, the outputs of post-training: their lineage, and merging an adapter into its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelstack.commands.help import AsJson, explained

_TREE_COLUMNS = 1_000
"""Width at which no path in a tree is wrapped; the terminal wraps what is too long for it."""


@explained(
    reads="the folder of a stage with an adapter, and the weights that it was trained on",
    writes="a new stage: model/, and model.gguf with --gguf",
    example="modelstack stage merge runs/tools runs/tools-merged --gguf q8_0",
    then="agentkit chat --model local:runs/tools-merged/model.gguf",
)
def merge(
    stage: Annotated[Path, typer.Argument(help="Folder of a stage with an adapter.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new stage.")],
    weights: Annotated[
        Path | None, typer.Option(help="Base weights of the adapter; if not given, the path recorded by its run.")
    ] = None,
    gguf_type: Annotated[
        str | None, typer.Option("--gguf", help="Write model.gguf too, in these numbers: f16, q8_0, q4_1, ...")
    ] = None,
) -> None:
    """Merge the adapter of a stage into its base: a checkpoint, and a quantised file for llama.cpp."""
    from rich.console import Console

    from modelstack.posttrain.stages.merge import merge_stage
    from modelstack.terminal.progress_bars import activity
    from modelstack.terminal.tables import print_wrapped

    with activity(Console(stderr=True), "merging the adapter"):
        merged = merge_stage(stage, out, weights=weights, gguf_type=gguf_type)
    print_wrapped(Console(), f"{out}: {merged.record.what}", indent="  ")


@explained(
    reads="folders of stages and of runs of `modelstack train`, or folders that contain some",
    writes="a tree on the terminal; status 1 where a file was changed after its stage was written",
    example="modelstack stage lineage runs",
    then="modelstack stage merge runs/tools runs/tools-merged",
)
def lineage(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Stages and pretraining runs, or folders that contain some."),
    ],
    as_json: AsJson = False,
) -> None:
    """Draw the ancestry of stages down to pretraining and check each record; status 1 if one is damaged.

    Of the folder of a pipeline, all its steps are drawn and checked.
    """
    from rich.console import Console

    from modelstack.pipeline import lineage as pipelines
    from modelstack.posttrain.stages import lineage as stages
    from modelstack.terminal.tables import print_json, print_tables, print_wrapped

    # Of a pipeline, its current stages; a release in it holds a copy of a record, and `superseded/` older outputs.
    runs = [folder for folder in folders if pipelines.is_pipeline(folder)]
    steps = [pipelines.step_nodes(folder) for folder in runs]
    others = [folder for folder in folders if folder not in runs]
    found = [stage for folder in runs for stage in pipelines.stage_folders(folder)]
    nodes = stages.lineage(stages.find_stages([*others, *found])) if others or found else {}
    if as_json:
        print_json(stages.as_json(nodes))
    elif (console := Console()).is_terminal:
        for tree in [*map(pipelines.tree, steps), *([stages.tree(nodes)] if nodes else [])]:
            Console(width=_TREE_COLUMNS).print(tree, soft_wrap=True)
    else:
        print_tables(console, *map(pipelines.table, steps), *([stages.table(nodes)] if nodes else []))
    damaged = [node for node in nodes.values() if node.state == "damaged"]
    damaged += [node for several in steps for node in several if node.state == "damaged"]
    for node in damaged:
        typer.secho(f"damaged: {node.name} in {node.path}", err=True, fg="red")  # a path is not wrapped
        for fault in node.faults:
            print_wrapped(Console(stderr=True), f"  {fault}", indent="    ", style="red")
    if damaged:
        raise typer.Exit(1)
