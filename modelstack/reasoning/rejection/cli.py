"""`modelstack sample`: tasks and a policy in, its right replies out as examples to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelstack.posttrain.command import Arguments


def sample(
    arguments: Arguments,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for replies, examples and the report.")],
) -> None:
    """Sample replies to tasks and keep the right ones as examples; the same command goes on after a stop."""
    from rich.console import Console

    from modelstack.reasoning.rejection.recipe import SampleRecipe
    from modelstack.reasoning.rejection.run import sample as run
    from modelstack.recipe_file import read_recipe
    from modelstack.train.run.cli import STOPPED

    file, *overrides = arguments
    console = Console()

    def report(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    found = run(read_recipe(SampleRecipe, Path(file), overrides), out, report)
    if found is None:
        raise typer.Exit(STOPPED)
    report(
        f"{out}: {found['n_examples']:,} examples of {found['n_tasks_with_examples']:,} tasks, from "
        f"{found['n_replies']:,} replies to {found['n_tasks']:,}; dropped: "
        + (", ".join(f"{n:,} ({rule})" for rule, n in found["dropped"].items()) or "none")
    )
