"""Commands `agentkit eval`, `compare` and `calibrate`; an entry point (extra `evals`) adds them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkit.errors import UserError
from mcp_servers.distribution import install_command

if TYPE_CHECKING:
    from evals.case import Run
    from evals.harness.evaluation import Evaluation, ProgressCallback
    from evals.harness.suite import Table

MAX_EXPLAINED = 5
"""Maximum number of failed runs whose error is printed; the result folder lists all of them."""

N_PLAIN_LINES = 20
"""Number of progress lines if standard error is not a terminal."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `agentkit`."""
    app.command(name="eval")(evaluate)
    app.command()(compare)
    app.command()(calibrate)


def evaluate(
    suite: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="Name of the suite; without it, all suites are listed.")
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Model string as for `agentkit run`, inspect:PROVIDER/NAME, or none."),
    ] = "local",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help="The suite's own options.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of cases, taken from all groups in turn.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of runs of each case.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed for sampling and for intervals.")] = 0,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Sampling temperature; 0 always takes the likeliest token.")
    ] = 0.0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum number of tokens of one reply.")] = None,
    case_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time limit of one case; a case that exceeds it counts as failed."),
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Number of cases that run at the same time.")] = 1,
    log_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the results; an unfinished evaluation in it is resumed."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cases again.")] = False,
) -> None:
    """Evaluate a model on a suite and report n, score, 95 % interval, failures, seconds and tokens per case."""
    if suite is None:
        _list_suites()
        return
    _need_inspect()
    from agentkit.cli.console import notes_console, output_console, plain
    from evals.harness.evaluation import default_folder
    from evals.harness.evaluation import evaluate as run_evaluation
    from evals.harness.specification import Specification

    specification = Specification(
        suite=suite,
        model=model,
        options=_options(option or []),
        limit=limit,
        epochs=epochs,
        seed=seed,
        temperature=temperature,
        max_tokens=max_tokens,
        case_timeout_s=case_timeout,
    )
    folder = log_dir or default_folder(specification)
    notes = notes_console()
    notes.print(plain(f"results in {folder}; `--log-dir {folder}` continues after an interruption", "dim"))
    with progress() as tell:
        done = run_evaluation(
            specification, folder, max_parallel=parallel, retry_failed=retry_failed, on_progress=tell
        )
    _report(done)
    output_console().print(plain(f"log: inspect view --log-dir {done.log.parent}", "dim"))


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(help="Folder of another evaluation of the same suite.")],
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Compare two evaluations case by case: difference with its interval, and McNemar's test."""
    from agentkit.cli.console import notes_console, plain
    from evals.harness.comparison import compare as compare_folders
    from evals.harness.comparison import comparison_table

    comparison = compare_folders(first, second, seed=seed)
    print_table(comparison_table(comparison))
    for name, only in (("first", comparison.only_in_first), ("second", comparison.only_in_second)):
        if only:
            notes_console().print(plain(f"only in the {name}: {len(only)} cases, {only[0]} and others", "yellow"))


def calibrate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a finished `agentkit eval`.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Output file of the calibration (JSON); a plot is written beside it.",
        ),
    ],
) -> None:
    """Calibrate a model's confidence on an evaluation whose correct choices are known.

    For your own data: `agentkit eval examples -o file=EXAMPLES.jsonl --log-dir FOLDER`. Use the result as
    `--model "local?confidence=FILE"` or `CalibratedModel(model, FILE)`. The second table shows the share of
    decisions that each threshold keeps.
    """
    from agentkit.cli.console import notes_console, plain
    from evals.confidence.measures import coverage_table, fit, quality_table, read_decisions
    from evals.confidence.plots import draw
    from evals.harness.comparison import read_summary

    summary = read_summary(folder)
    suite, model = summary["identity"]["suite"], summary["identity"]["model"]
    decisions, n_unknown = read_decisions(folder)
    found = fit(decisions, model=model, n_unknown=n_unknown)
    found.calibration.save(out)
    drawn = draw(found, f"{model} on {suite}", out.with_suffix(".png"))
    print_table(quality_table(found))
    print_table(coverage_table(found))
    notes = notes_console()
    if n_unknown:
        notes.print(plain(f"{n_unknown} runs failed or have no probability; they are left out", "yellow"))
    notes.print(plain(f"written: {out}, {drawn}", "dim"))


def print_table(table: Table) -> None:
    """Print a table; cell contents are escaped because they may look like markup."""
    from rich.table import Table as RichTable

    from agentkit.cli.console import output_console, plain

    drawn = RichTable(title=plain(table.title), title_justify="left", title_style="bold")
    for column in table.columns:
        is_text = column in ("group", "condition", "task", "source", "figure")
        drawn.add_column(plain(column), justify="left" if is_text else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(plain(cell) for cell in row))
    console = output_console()
    console.soft_wrap = False
    console.print(drawn)


def _report(done: Evaluation) -> None:
    from agentkit.cli.console import notes_console, one_line, plain
    from evals.harness.results import summary_table

    of = done.specification
    title = f"{of.suite} · {of.model} · seed {of.seed}" + (f" · {of.epochs} epochs" if of.epochs > 1 else "")
    print_table(summary_table(title, done.lines))
    for table in done.tables:
        print_table(table)
    notes = notes_console()
    failed = [s for s in done.scored if s.run.status in ("failed", "timed_out")]
    for each in failed[:MAX_EXPLAINED]:
        notes.print(plain(one_line(f"{each.case.id} {each.run.status}: {each.run.error}"), "red"))
    if len(failed) > MAX_EXPLAINED:
        notes.print(plain(f"{len(failed) - MAX_EXPLAINED} more failed; see {done.folder}/scores.csv", "red"))
    for path in done.plots:
        notes.print(plain(f"drawn: {path}", "dim"))


def _list_suites() -> None:
    from agentkit.cli.console import output_console, plain
    from evals.harness.suite import SUITES, find_suite

    console = output_console()
    for name in SUITES:
        suite = find_suite(name)
        console.print(plain(f"{name:<18} {suite.description}", "bold"))
        for key, about in suite.options.items():
            console.print(plain(f"    -o {key}=...  {about}", "dim"))


def _options(given: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for each in given:
        key, sign, value = each.partition("=")
        if not sign or not key:
            raise UserError(f"--option {each!r}: write KEY=VALUE.")
        options[key] = value
    return options


def _need_inspect() -> None:
    from importlib.util import find_spec

    if find_spec("inspect_ai") is None:
        raise UserError(f"`agentkit eval` needs inspect-ai: {install_command('evals')}")


@contextmanager
def progress(name: str = "cases") -> Generator[ProgressCallback]:
    """Show a progress bar on standard error, or occasional plain lines if it is not a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from agentkit.cli.console import notes_console

    console = notes_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    n_failed = 0
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)

        def tell(n_done: int, n_runs: int, run: Run) -> None:
            nonlocal n_failed
            n_failed += run.status in ("failed", "timed_out")
            what = f"{name}, {n_failed} failed" if n_failed else name
            bar.update(task, completed=n_done, total=n_runs, description=what)
            if not console.is_terminal and (n_done % max(1, n_runs // N_PLAIN_LINES) == 0 or n_done == n_runs):
                console.print(f"{n_done} of {n_runs} {what}")

        yield tell
