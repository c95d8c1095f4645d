"""`modelstack ablate`: measure the effect of architecture choices at a small training budget."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer


def ablate(
    choices: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CHOICE]...", help="Names of choices; default: six choices of this project. --list shows all."
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML with [base] and [choices.NAME].")] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="File or folder of text or JSONL; default: Python's standard library."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each choice.")] = 3,
    steps: Annotated[int, typer.Option(min=1)] = 160,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 8,
    length: Annotated[int, typer.Option(min=2, help="Bytes of a row.")] = 256,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 3e-3,
    out: Annotated[Path, typer.Option(help="Results; an unfinished folder is resumed.")] = Path("ablation"),
    processes: Annotated[int | None, typer.Option(min=1, help="Parallel runs; default: one per core.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the choices and run nothing.")] = False,
) -> None:
    """Train the base and each choice on the same bytes; print bits per byte with paired intervals."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    from modelstack.architecture.ablation import choices as known
    from modelstack.architecture.ablation import report, running
    from modelstack.architecture.ablation.text import read_text
    from modelstack.architecture.ablation.training import Budget
    from modelstack.architecture.config import build
    from modelstack.files import replacing

    console = Console()
    base, available = known.read_recipe(recipe) if recipe is not None else (build(known.BASE), known.CHOICES)
    if show:
        for choice in available.values():
            console.print(f"{choice.name:12}{choice.about}", highlight=False, soft_wrap=True)
        return
    names = choices or list(available if recipe is not None else known.DEFAULT)
    plan = running.Plan(
        base.with_(max_position_embeddings=max(length, base.max_position_embeddings)),
        tuple(known.chosen(names, available)),
        Budget(steps=steps, rows=rows, length=length, learning_rate=learning_rate),
        tuple(range(seeds)),
        tuple(text or ()),
    )
    started = time.monotonic()
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("runs", total=len(list(plan.runs())))

        def finished(name: str, seed: int, outcome: running.Outcome) -> None:
            progress.update(task, advance=1, description=f"{name}, seed {seed}: {outcome.bits_per_byte:.3f}")
            if not console.is_terminal:
                line = f"{name}, seed {seed}: {outcome.bits_per_byte:.3f} bits per byte, {outcome.seconds:.0f} s"
                print(line, flush=True)

        outcomes = running.run(plan, out, n_processes=processes, on_finished=finished)
    seconds = time.monotonic() - started
    table_rows = report.rows_of(plan, outcomes)
    with replacing(out / "ablation.md") as temporary:
        source = read_text(plan.paths).source
        temporary.write_text(report.markdown(plan, table_rows, source, seconds), encoding="utf-8")
    with replacing(out / "ablation.png") as temporary:
        report.draw(plan, table_rows, outcomes, temporary)
    table = Table(*report.HEADINGS, box=SIMPLE_HEAD, padding=0)
    for row in table_rows:
        table.add_row(*report.cells(row))
    console.print(table)
    console.print(
        f"{out / 'ablation.md'}, {out / 'ablation.png'}; {seconds:.0f} s", highlight=False, soft_wrap=True
    )
