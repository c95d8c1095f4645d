"""Runs all benchmarks of this folder, or the named ones, and writes a report with tables and plots.

Each benchmark runs in its own process and writes `NAME.json` (figures and the machine they were measured on) and
`NAME.log` to the output folder. The report over all results in the folder is `report.md` with `plots/`. An
interrupt stops the running benchmark, keeps the finished ones, and reports them; `--resume` then runs the rest.

    python -m evals.speed [NAME ...] [--quick] [--resume] [--compare EARLIER] [--out FOLDER] [--list]
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from agentkit.errors import UserError
from evals.harness.suite import Table
from evals.speed.comparing import read_records
from evals.speed.machine import Machine, busy_warning, describe_machine, measure_load
from evals.speed.plots import draw_all
from evals.speed.registry import BENCHMARKS, Benchmark
from evals.speed.report import report_markdown, tables_of, warnings_of
from evals.speed.results import write_whole
from evals.speed.running import ROOT, Record, is_finished, read_record, run_benchmark

RESULTS = Path("evals", "speed", "results")
"""Result folder below the root; git ignores it. Short runs use a subfolder and do not replace full runs."""
TEXT_COLUMNS = ("figure", "program")
OTHER_COLUMNS = 58
"""Characters of the progress line besides a benchmark's last output line, which gets the rest of the width."""
INTERRUPTED = 130
"""Exit status after an interrupt, as in shells: 128 + SIGINT."""


@dataclass(slots=True)
class Session:
    """State of this call of the command: options, and records from earlier runs or from this one."""

    options: argparse.Namespace
    folder: Path
    machine: Machine
    console: Console
    records: dict[str, Record] = field(default_factory=dict[str, Record])


def main(argv: Sequence[str] | None = None) -> int:
    """Run benchmarks and write the report.

    Returns:
        Exit status: 0; 1 if a bound is broken or a benchmark failed; 2 after invalid arguments; 130 after an
            interrupt.
    """
    options = _options(argv)
    console = Console()
    try:
        names = chosen(options.names)
        earlier = read_records(options.compare) if options.compare is not None else {}
    except UserError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 2
    if options.list:
        for name in names:
            console.print(f"{name:22}{BENCHMARKS[name].question}", highlight=False, soft_wrap=True)
        return 0

    folder: Path = options.out or ROOT / RESULTS / ("quick" if options.quick else "")
    folder.mkdir(parents=True, exist_ok=True)
    session = Session(options, folder, describe_machine(ROOT), console)
    if options.resume:
        _take_finished(session, names)
    todo = [name for name in names if name not in session.records]
    if todo and (warning := busy_warning(measure_load(), session.machine.cores)) is not None:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False)
    interrupted = False
    try:
        _run(session, todo)
    except KeyboardInterrupt:
        interrupted = True
        left = [name for name in names if name not in session.records]
        console.print(f"[yellow]interrupted;[/yellow] not measured: {', '.join(left)}", highlight=False)
    if session.records:
        _write_report(session, earlier)
    if interrupted:
        return INTERRUPTED
    return 1 if any(is_bad(record) for record in session.records.values()) else 0


def chosen(names: Sequence[str]) -> list[str]:
    """Return the named benchmarks in the order of the registry; without names, all of them.

    Raises:
        UserError: a name is not known.
    """
    for name in names:
        if name not in BENCHMARKS:
            near = difflib.get_close_matches(name, BENCHMARKS, n=1, cutoff=0.0)
            raise UserError(f"benchmark {name!r} is not known; nearest: {near[0]!r}. --list shows all of them.")
    return [name for name in BENCHMARKS if not names or name in names]


def is_bad(record: Record) -> bool:
    """Return whether a record makes the command fail; a bound broken by a short run does not."""
    return record.status == "failed" or (record.status == "bound broken" and not record.quick)


def arguments_of(benchmark: Benchmark, options: argparse.Namespace) -> list[str]:
    """Return the command-line arguments of a benchmark."""
    arguments = list(benchmark.quick) if options.quick else []
    if benchmark.takes_bfcl and options.bfcl is not None:
        arguments += ["--bfcl", str(options.bfcl.resolve())]
    if benchmark.takes_model and options.model is not None:
        arguments += ["--model", options.model]
    return arguments


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evals.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; default: all")
    parser.add_argument("--list", action="store_true", help="show the benchmarks and run nothing")
    parser.add_argument("--out", type=Path, help=f"folder of results and report; default: {RESULTS}")
    parser.add_argument(
        "--resume", action="store_true", help="keep results from the same commit with the same arguments"
    )
    parser.add_argument("--quick", action="store_true", help="short runs that only test that the benchmarks work")
    parser.add_argument(
        "--compare", type=Path, metavar="EARLIER", help="folder or NAME.json of an earlier run, for ratios to it"
    )
    parser.add_argument("--bfcl", type=Path, help="data folder of bfcl-eval; without it the wheel is fetched")
    parser.add_argument("--model", help="local model of the benchmarks that take one")
    return parser.parse_args(argv)


def _take_finished(session: Session, names: Sequence[str]) -> None:
    for name in names:
        record = read_record(session.folder / f"{name}.json")
        arguments = arguments_of(BENCHMARKS[name], session.options)
        if record is not None and is_finished(record, arguments, session.machine.commit):
            session.records[name] = record
    if session.records:
        session.console.print(f"finished before and kept: {', '.join(session.records)}", highlight=False)


def _run(session: Session, todo: Sequence[str]) -> None:
    console = session.console
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:22}"),
        BarColumn(bar_width=14),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[line]}", markup=False),
    )
    line_width = max(0, console.width - OTHER_COLUMNS)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(todo), line="")
        for name in todo:
            benchmark = BENCHMARKS[name]
            progress.update(task, description=name, line="")
            if not console.is_terminal:
                console.print(f"{name} runs ({session.folder / f'{name}.log'})", highlight=False, soft_wrap=True)
            session.records[name] = record = run_benchmark(
                name,
                benchmark.module,
                arguments_of(benchmark, session.options),
                session.folder,
                session.machine,
                quick=session.options.quick,
                on_line=lambda line: progress.update(task, line=line.strip()[:line_width]),
            )
            progress.update(task, advance=1, line="")
            console.print(f"{name}: {record.status}, {record.wall_s:.0f} s", highlight=False)
            if record.status == "failed":
                for line in record.tail[-5:]:
                    console.print(f"  {line}", markup=False, highlight=False)


def _write_report(session: Session, earlier: Mapping[str, Record]) -> None:
    """Write the report on all results in the folder, and print the tables of this call."""
    folder, console = session.folder, session.console
    found = {name: session.records.get(name) or read_record(folder / f"{name}.json") for name in BENCHMARKS}
    records = [record for record in found.values() if record is not None]
    plots = draw_all(records, folder / "plots")
    report = folder / "report.md"
    write_whole(report, report_markdown(records, earlier, plots, folder))
    ours = [record for record in records if record.benchmark in session.records]
    for record in ours:
        for table in tables_of(record, earlier.get(record.benchmark)):
            _print_table(table, console)
    for warning in warnings_of(ours, earlier):
        console.print(f"[yellow]{warning}[/yellow]", highlight=False)
    n_plots = sum(map(len, plots.values()))
    console.print(f"{report}, with {n_plots} plots", highlight=False, soft_wrap=True)


def _print_table(table: Table, console: Console) -> None:
    drawn = RichTable(title=table.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in table.columns:
        drawn.add_column(Text(column), justify="left" if column in TEXT_COLUMNS else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell, style="red" if cell == "BROKEN" else "") for cell in row))
    console.print(drawn)


if __name__ == "__main__":
    sys.exit(main())
