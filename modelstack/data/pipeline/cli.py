"""`modelstack data`: a recipe in, documents to train on, a report and a data card out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer


def data(
    arguments: Annotated[
        list[str], typer.Argument(metavar="RECIPE.toml [key=value ...]", help="A recipe, and keys over it.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; a started one is continued.")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; as many as there are cores, unless said.")
    ] = None,
    on: Annotated[
        Literal["local", "ray", "slurm"],
        typer.Option(help="Where the tasks run: processes here, a Ray cluster, jobs of Slurm."),
    ] = "local",
    options: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="key=value", help="An option of the executor of --on."),
    ] = None,
) -> None:
    """Take raw files through the steps of a recipe; whenever it is stopped, the same command goes on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    from modelstack.data.pipeline.recipe import DataRecipe
    from modelstack.data.pipeline.report import CARD_FILE, REPORT_FILE, write_report
    from modelstack.data.pipeline.run import run_recipe
    from modelstack.errors import UserError
    from modelstack.recipe_file import read_recipe

    file, *overrides = arguments
    recipe = read_recipe(DataRecipe, Path(file), overrides)
    console = Console()
    if on != "local":
        from modelstack.data.pipeline.executors import run_on

        chosen = [*(options or []), *([] if workers is None else [f"workers={workers}"])]
        if not run_on(on, recipe, out, chosen):
            console.print(
                f"submitted; when the jobs are done, the same command without --on writes {out / REPORT_FILE}"
            )
            return
    elif options:
        raise UserError("--with gives options to --on ray or slurm: name one of them, or leave --with out")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        shown: dict[str, TaskID] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in shown:
                shown[name] = bars.add_task(name, total=total)
            bars.update(shown[name], completed=done)

        phases = run_recipe(recipe, out, n_workers=workers or os.cpu_count() or 1, progress=progress)
    manifest = write_report(recipe, out, phases)
    console.print(
        f"{manifest['n_documents_read']:,} documents read, {manifest['n_documents']:,} kept with "
        f"{manifest['n_chars']:,} characters: {out / REPORT_FILE}, {out / CARD_FILE}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
