"""Formats benchmark records as tables, in Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evals.harness.suite import Table
from evals.speed.comparing import against_earlier, differences
from evals.speed.machine import BUSY_SHARE, Machine
from evals.speed.results import Comparison, Figure
from evals.speed.running import Record


def tables_of(record: Record, earlier: Record | None = None) -> list[Table]:
    """Return tables of a benchmark's figures, of its comparisons, and of the ratios to an earlier record."""
    if record.result is None:
        return []
    rows = tuple((f.name, _value(f), _bound(f), _verdict(f)) for f in record.result.figures)
    figures = [Table(record.benchmark, ("figure", "value", "bound", "verdict"), rows)] if rows else []
    comparisons = [_comparison(record.benchmark, comparison) for comparison in record.result.comparisons]
    return [*figures, *comparisons, *([against_earlier(record, earlier)] if earlier is not None else [])]


def report_markdown(
    records: Sequence[Record], earlier: Mapping[str, Record], plots: Mapping[str, Sequence[Path]], folder: Path
) -> str:
    """Return the whole report: warnings, each benchmark with its plots, and the conditions of measurement.

    Args:
        records: Records of the benchmarks.
        earlier: Records of an earlier run to compare with, by benchmark.
        plots: Plot files by benchmark; they are linked relative to `folder`.
        folder: Folder of the report.
    """
    parts = ["# Speed", *(f"> {warning}" for warning in warnings_of(records, earlier))]
    for record in records:
        parts.append(f"## {record.benchmark}" + (" failed" if record.status == "failed" else ""))
        if record.status == "failed":
            parts += [f"Exit code {record.exit_code}. The last lines:", _fenced(record.tail)]
        for table in tables_of(record, earlier.get(record.benchmark)):
            parts += [f"**{table.title}**"] if table.title != record.benchmark else []
            parts.append(markdown(table))
        paths = plots.get(record.benchmark, ())
        parts += [f"![{path.stem}]({path.relative_to(folder).as_posix()})" for path in paths]
    conditions = conditions_table(records)
    return "\n\n".join([*parts, f"## {conditions.title}", markdown(conditions)]) + "\n"


def warnings_of(records: Sequence[Record], earlier: Mapping[str, Record]) -> list[str]:
    """Return the reasons that make the figures unreliable, one line each."""
    found = [
        f"Warning: {record.benchmark} ran while others used {share:.0%} of the cores; its times are too long."
        for record in records
        if (share := busy_share(record)) is not None and share > BUSY_SHARE
    ]
    quick = [record.benchmark for record in records if record.quick]
    if quick:
        found.append(f"Warning: short runs, whose figures are not meaningful: {', '.join(quick)}.")
    if len({record.machine.commit for record in records}) > 1:
        found.append("Warning: the benchmarks ran on different commits; see the last table.")
    for record in records:
        before = earlier.get(record.benchmark)
        if before is not None and (names := differences(before, record)):
            found.append(
                f"Warning: {record.benchmark} was measured under other conditions before: {', '.join(names)}."
            )
    return found


def busy_share(record: Record) -> float | None:
    """Return the share of the cores used by other programs: the larger of the values before and after."""
    shares = [load.busy_share for load in (record.before, record.after) if load.busy_share is not None]
    return max(shares, default=None)


def _comparison(benchmark: str, comparison: Comparison) -> Table:
    ours = comparison.values.get(comparison.ours)
    rows = [
        (name, f"{value:.4g}", f"{value / ours:.3g}" if ours else "")
        for name, value in sorted(comparison.values.items(), key=lambda item: item[1])
    ]
    columns = ("program", comparison.unit, f"times {comparison.ours}")
    return Table(f"{benchmark}: {comparison.title}", columns, tuple(rows))


def conditions_table(records: Sequence[Record]) -> Table:
    """Return a table of each benchmark's machine, versions, parameters and load."""
    rows = []
    for record in records:
        machine, share = record.machine, busy_share(record)
        parameters = record.result.parameters if record.result is not None else {}
        notes = record.result.notes if record.result is not None else ()
        rows.append(
            (
                record.benchmark,
                _machine(machine),
                f"Python {machine.python}; " + ", ".join(f"{k} {v}" for k, v in machine.packages.items()),
                "; ".join([*(f"{key} {value}" for key, value in parameters.items()), *notes]),
                " to ".join(f"{load.average[0]:.1f}" for load in (record.before, record.after) if load.average),
                f"{share:.0%}" if share is not None else "",
                f"{record.wall_s:.0f}",
                machine.commit or "",
                record.before.time,
            )
        )
    columns = (
        "benchmark", "machine", "versions", "parameters", "load average", "others", "seconds", "commit", "date",
    )  # fmt: skip
    return Table("Conditions", columns, tuple(rows))


def _machine(machine: Machine) -> str:
    memory = f", {machine.memory_gib:g} GiB" if machine.memory_gib is not None else ""
    governor = f"governor {machine.governor}" if machine.governor is not None else "governor not readable"
    return f"{machine.cpu}, {machine.cores} cores{memory}, {governor}, {machine.system}"


def _value(figure: Figure) -> str:
    interval = f" ({figure.low:.4g} to {figure.high:.4g})" if None not in (figure.low, figure.high) else ""
    return f"{figure.value:.4g}{interval} {figure.unit}".strip()


def _bound(figure: Figure) -> str:
    return f"{figure.bound_kind} {figure.bound:g}" if figure.bound is not None else ""


def _verdict(figure: Figure) -> str:
    return {True: "ok", False: "BROKEN", None: ""}[figure.holds]


def markdown(table: Table) -> str:
    """Format a table in Markdown."""
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _fenced(lines: Sequence[str]) -> str:
    return "\n".join(["```text", *(line.replace("```", "'''") for line in lines), "```"])
