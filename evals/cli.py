"""Commands `agentkit eval`, `compare` and `calibrate`; an entry point (extra `evals`) adds them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkit.cli.options import JsonOption
from agentkit.errors import UserError
from mcp_servers.distribution import install_command

if TYPE_CHECKING:
    from evals.case import Run
    from evals.harness.evaluation import Evaluation, ProgressCallback
    from evals.harness.suite import Table
    from modelstack.terminal.tables import Table as LaidOutTable

MAX_EXPLAINED = 5
"""Maximum number of failed runs whose error is printed; the result folder lists all of them."""


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
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on a suite and report n, score, 95 % interval, failures, seconds and tokens per case."""
    if suite is None:
        _list_suites(as_json=as_json)
        return
    _need_inspect()
    from agentkit.cli.console import notes_console, print_wrapped
    from evals.harness.comparison import read_summary
    from evals.harness.evaluation import default_folder
    from evals.harness.evaluation import evaluate as run_evaluation
    from evals.harness.specification import Specification
    from modelstack.terminal.tables import print_json

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

    def say_where() -> None:
        print_wrapped(notes, f"results in {folder}; `--log-dir {folder}` continues after an interruption", "dim")

    with progress() as tell:
        done = run_evaluation(
            specification,
            folder,
            max_parallel=parallel,
            retry_failed=retry_failed,
            on_start=say_where,
            on_progress=tell,
        )
    _report(done, as_json=as_json)
    if as_json:
        tables = [{"title": table.title, "rows": _laid_out(table).records()} for table in done.tables]
        print_json({"folder": str(done.folder), **read_summary(done.folder), "tables": tables})
    print_wrapped(notes, f"log: inspect view --log-dir {done.log.parent}", "dim")


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(help="Folder of another evaluation of the same suite.")],
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare two evaluations case by case: difference with its interval, and McNemar's test."""
    from agentkit.cli.console import notes_console, plain
    from evals.harness.comparison import compare as compare_folders
    from evals.harness.comparison import comparison_table
    from modelstack.terminal.tables import print_json

    comparison = compare_folders(first, second, seed=seed)
    if as_json:
        print_json(asdict(comparison))
    else:
        print_tables(comparison_table(comparison))
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
    """Calibrate the probabilities of a model's tool choices on an evaluation whose right choices are known.

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
    print_tables(quality_table(found), coverage_table(found))
    notes = notes_console()
    if n_unknown:
        notes.print(plain(f"{n_unknown} runs failed or have no probability; they are left out", "yellow"))
    notes.print(plain(f"written: {out}, {drawn}", "dim"))


def print_tables(*tables: Table) -> None:
    """Print tables of text cells on standard output."""
    from agentkit.cli import console

    console.print_tables(*map(_laid_out, tables))


def _laid_out(table: Table) -> LaidOutTable:
    from modelstack.terminal.tables import Column
    from modelstack.terminal.tables import Table as LaidOutTable

    return LaidOutTable(tuple(map(Column, table.columns)), table.rows, table.title)


def _report(done: Evaluation, *, as_json: bool) -> None:
    from agentkit.cli.console import notes_console, one_line, print_wrapped
    from evals.harness.results import summary_table

    of = done.specification
    title = f"{of.suite} · {of.model} · seed {of.seed}" + (f" · {of.epochs} epochs" if of.epochs > 1 else "")
    if not as_json:
        print_tables(summary_table(title, done.lines), *done.tables)
    notes = notes_console()
    failed = [s for s in done.scored if s.run.status in ("failed", "timed_out")]
    for each in failed[:MAX_EXPLAINED]:
        print_wrapped(notes, one_line(f"{each.case.id} {each.run.status}: {each.run.error}"), "red", indent="  ")
    if len(failed) > MAX_EXPLAINED:
        print_wrapped(notes, f"{len(failed) - MAX_EXPLAINED} more failed; see {done.folder}/scores.csv", "red")
    for path in done.plots:
        print_wrapped(notes, f"drawn: {path}", "dim")


def _list_suites(*, as_json: bool) -> None:
    from agentkit.cli.console import print_tables
    from evals.harness.suite import SUITES, find_suite
    from modelstack.terminal.tables import Column, Table, print_json

    def options(given: Mapping[str, str]) -> str:
        return "\n".join(f"-o {key}=...  {about}" for key, about in given.items())

    suites = [find_suite(name) for name in SUITES]
    columns = (Column("suite"), Column("description"), Column("options", show=options, below=True))
    table = Table(columns, [(suite.name, suite.description, dict(suite.options) or None) for suite in suites])
    if as_json:
        print_json(table.records())
    else:
        print_tables(table)


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
    """Show the finished cases on standard error: a bar on a terminal, occasional lines elsewhere."""
    from agentkit.cli.console import notes_console
    from modelstack.terminal.progress_bars import progress_bars

    n_failed = 0
    with progress_bars(notes_console()) as shown:

        def tell(n_done: int, n_runs: int, run: Run) -> None:
            nonlocal n_failed
            n_failed += run.status in ("failed", "timed_out")
            shown(name, n_done, n_runs, f"{n_failed} failed" if n_failed else "")

        yield tell
