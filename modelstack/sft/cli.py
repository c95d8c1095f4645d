"""`modelstack lineage`: what came of what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
