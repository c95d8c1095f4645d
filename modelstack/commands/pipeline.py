"""All twelve steps in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelstack.commands.help import explained
from modelstack.commands.recipe_arguments import Keys, default_out, read_arguments
from modelstack.errors import UserError


@explained(
    reads="a recipe with a table for each step; texts of your own, where it names some",
    writes="runs/NAME: a folder for each step with its record, evaluations/, logs/, pipeline.json, index.html",
    example="modelstack pipeline test --out runs/first",
    then="modelstack stage lineage runs/first; the page is runs/first/index.html",
)
def pipeline(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE [key=value ...]", help="A shipped recipe by name or a .toml file, and keys over it."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; else runs/NAME.")] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Run this step and all later ones again.")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", metavar="STEP", help="Run this step alone, again.")] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="STEP", help="Leave a step out, marked as skipped; may be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print hours, memory and cost, also for 1,000 times the size.")
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="STEP", help="Explain a step and its parts; all: every step."),
    ] = None,
    keys: Keys = None,
) -> None:
    """Run all twelve steps, from raw text to a released model that an agent uses; the same command resumes it.

    A step runs if its output is missing, altered, or made from other inputs, settings or another version of the
    package.
    """
    from rich.console import Console

    from modelstack.terminal.tables import print_wrapped

    if explain is not None:
        from modelstack.pipeline.explain import explanation

        typer.echo(explanation(_step(explain) if explain != "all" else None), nl=False)
        return
    if not arguments:
        raise UserError("RECIPE is missing: give a shipped recipe (test, nano, small, gpu) or a .toml file")
    console = Console()

    def say(text: str) -> None:
        print_wrapped(console, text, indent=" " * 17)

    skipped = [_step(name) for name in skip or ()]
    recipe = read_arguments("pipeline", arguments)
    if skipped:
        recipe = recipe.model_validate(recipe.model_dump() | {"skip": (*recipe.skip, *skipped)})
    folder = default_out(out, recipe.name)
    if dry_run:
        from modelstack.pipeline.dry_run import dry_run_lines

        for line in dry_run_lines(recipe, folder):
            say(line)
        return
    if first is not None and only is not None:
        raise UserError(f"--from {first} and --only {only} contradict each other: give one of them")
    from modelstack.pipeline.driver import Wish, run_pipeline
    from modelstack.pipeline.page import write_page

    wish = Wish(None if first is None else _step(first), None if only is None else _step(only))
    try:
        run_pipeline(recipe, folder, say, wish=wish)
    finally:
        if (folder / "pipeline.json").is_file():
            say(f"page: {write_page(folder)}")


def _step(name: str) -> str:
    """Return the name of a step.

    Raises:
        UserError: No step has this name.
    """
    import difflib

    from modelstack.pipeline.steps import BY_NAME

    if name not in BY_NAME:
        near = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0)[0]
        raise UserError(f"step {name!r} is not known; nearest: {near!r}. Steps: {', '.join(BY_NAME)}")
    return name
