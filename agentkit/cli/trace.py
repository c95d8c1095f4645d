"""`agentkit trace`: list, show, count and replay traced runs, and export training examples from them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkit.cli.options import TraceDirOption
from modelstack.terminal.plain_help import PlainTyper

if TYPE_CHECKING:
    from collections import Counter

    from agentkit.tracing.export import ExportReport
    from agentkit.tracing.stats import TraceStats

MAX_LINE_CHARS = 160

app = PlainTyper(no_args_is_help=True, help="Traces of runs: list, show, stats, replay, export-dataset.")


@app.command("list")
def list_traces(
    trace_dir: TraceDirOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
) -> None:
    """List the newest runs, one a line."""
    from agentkit.cli.console import notes_console, one_line, output_console, plain
    from agentkit.errors import UserError
    from agentkit.tracing.sources import trace_source

    where, output, notes = _where(trace_dir), output_console(), notes_console()
    n_runs = 0
    for run in trace_source(where).summaries(limit):
        n_runs += 1
        if isinstance(run, UserError):
            notes.print(plain(one_line(str(run)), "yellow"))
            continue
        started = datetime.fromtimestamp(run.started).strftime("%Y-%m-%d %H:%M")
        counts = f"{run.n_steps} steps  {run.n_tool_calls} calls"
        facts = f"{run.run_id}  {started}  {run.status:<13}  {counts}  {run.model_name}  {run.prompt}"
        output.print(plain(one_line(facts, MAX_LINE_CHARS)))
    if not n_runs:
        notes.print(plain(f"no traces in {where}", "dim"))


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A run, or a unique beginning of its id.")],
    trace_dir: TraceDirOption = None,
) -> None:
    """Show a run: messages, calls with their probabilities, tokens, times, outcome."""
    from agentkit.cli.cards import EventPrinter, usage_line
    from agentkit.cli.console import output_console, plain
    from agentkit.events import RunFailedEvent, RunFinishedEvent
    from agentkit.tracing.sources import trace_source

    output = output_console()
    printer = EventPrinter(output, output, show_messages=True)
    ended = False
    for _, event in trace_source(_where(trace_dir)).events(run_id):
        printer(event)
        if isinstance(event, RunFinishedEvent):
            output.print(plain(f"{event.status} · {usage_line(event.usage, event.confidence, event.duration_s)}"))
            ended = True
        elif isinstance(event, RunFailedEvent):
            output.print(plain(f"failed · {event.error_type}: {event.error}", "red"))
            output.print(plain(usage_line(event.usage, None)))
            ended = True
    if not ended:
        output.print("unfinished: the process ended first, or is still running", style="yellow")


@app.command()
def stats(
    trace_dir: TraceDirOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many runs, newest first.")] = 1000,
) -> None:
    """Show statistics of the newest runs: statuses, tokens, times, and outcomes of each tool's calls."""
    from agentkit.cli.console import notes_console, one_line, output_console, plain
    from agentkit.errors import UserError
    from agentkit.tracing.sources import trace_source
    from agentkit.tracing.stats import TraceStats

    source, found, notes = trace_source(_where(trace_dir)), TraceStats(), notes_console()
    for run in source.summaries(limit):
        if isinstance(run, UserError):
            notes.print(plain(one_line(str(run)), "yellow"))
        else:
            found.add(event for _, event in source.events(run.run_id))
    if not found.models:
        notes.print(plain(f"no traces in {_where(trace_dir)}", "dim"))
        return
    from rich.table import Table

    output = output_console()
    output.soft_wrap = False
    for title, columns, rows in _stats_tables(found):
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, justify="left" if column == columns[0] else "right", overflow="fold")
        for row in rows:
            table.add_row(*(plain(cell) for cell in row))
        output.print(table)


def _stats_tables(found: TraceStats) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Return title, columns and rows of each table that has rows."""
    from agentkit.tracing.stats import quantile

    def counted(counts: Counter[str]) -> str:
        return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.most_common())

    models = [
        (
            name,
            f"{model.n_runs:,}",
            counted(model.statuses),
            f"{len(model.step_seconds):,}",
            f"{quantile(model.step_seconds, 0.5):.2f} / {quantile(model.step_seconds, 0.95):.2f}",
            f"{model.input_tokens:,} ({model.cached_tokens:,})",
            f"{model.output_tokens:,}",
            f"{quantile(model.tool_choices, 0.5):.2f}" if model.tool_choices else "",
        )
        for name, model in sorted(found.models.items())
    ]
    tools = [
        (
            name,
            f"{tool.n_calls:,}",
            f"{tool.outcomes['success'] / tool.n_calls:.0%}",
            counted(tool.outcomes),
            f"{quantile(tool.seconds, 0.5):.3f} / {quantile(tool.seconds, 0.95):.3f}",
        )
        for name, tool in sorted(found.tools.items(), key=lambda item: (-item[1].n_calls, item[0]))
    ]
    verdicts = [
        (name, stage.replace("_", " "), verdict.replace("_", " "), f"{count:,}")
        for (stage, name, verdict), count in found.verdicts.most_common()
    ]
    seconds = "s, median / 95th"
    columns_of_models = ("model", "runs", "ended", "steps", seconds, "input (cached)", "output", "confidence")
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = [
        ("runs", columns_of_models, models),
        ("tool calls", ("tool", "calls", "well", "outcomes", seconds), tools),
        ("guardrails that did not allow", ("guardrail", "stage", "verdict", "times"), verdicts),
    ]
    return [table for table in tables if table[2]]


@app.command()
def replay(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run's id, or a unique beginning of it.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="The one that was asked; local if absent.")
    ] = None,
    trace_dir: TraceDirOption = None,
) -> None:
    """Send the requests of a traced run to a local model again and compare every token.

    Tools are not run: the model is told what they gave then. Exit status 1: a reply differs; the first difference
    is shown.
    """
    import anyio

    from agentkit.cli.console import one_line, output_console, plain
    from agentkit.models.resolve import resolve_model
    from agentkit.tracing.replay import replay as replayed
    from agentkit.tracing.sources import trace_source

    events = [event for _, event in trace_source(_where(trace_dir)).events(run_id)]
    n_same, found = anyio.run(replayed, events, resolve_model(model or "local"))
    output = output_console()
    if found is None:
        output.print(plain(f"{n_same} replies, all the same"))
        return
    place = "" if found.token is None else f" at token {found.token}"
    output.print(plain(f"{n_same} replies are the same", "red"))
    output.print(plain(f"step {found.step}: the {found.what} differs{place}", "red"))
    output.print(plain(f"  then: {one_line(found.traced, 500)}"))
    output.print(plain(f"  now:  {one_line(found.replayed, 500)}"))
    raise typer.Exit(1)


@app.command("export-dataset")
def export_dataset(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write: NAME.jsonl or NAME.jsonl.zst.")],
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN_ID...", help="Runs, or unique beginnings of their ids; all if absent."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="Only runs of this model, named as in `list`."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(metavar="DATE", help="Only runs since then, local time: 2026-03-01, 2026-03-01T08:30:00."),
    ] = None,
    last_only: Annotated[bool, typer.Option("--last-only", help="Only the last reply of each run.")] = False,
    license_id: Annotated[
        str, typer.Option("--license", metavar="ID", help="Licence of the examples: an SPDX id, or proprietary.")
    ] = "proprietary",
    trace_dir: TraceDirOption = None,
) -> None:
    """Export traced runs as training examples for `modelstack sft`: one example for each good reply.

    Good is what the trace shows to be: the run was completed (or ended in an abstention), all calls of the reply
    ran and succeeded, the answer was taken. The rest is left out and counted. Choose runs by RUN_ID, --model and
    --since; there is no way to take failed ones. Exit status 1: there was nothing to write.

    Traces hold what was said: messages, results of tools and any secret in them go into OUT as they are. Only you
    can read OUT, and nothing leaves this machine: look through it before you hand it on, or a model trained on it.
    """
    from agentkit.cli.console import notes_console, one_line, output_console, plain
    from agentkit.tracing.export import RunChoice, export_examples

    choice = RunChoice(tuple(run_ids or ()), model, None if since is None else since.timestamp())
    report = export_examples(_where(trace_dir), out, choice, license_id=license_id, last_only=last_only)
    notes = notes_console()
    for line in report.unreadable:
        notes.print(plain(one_line(line), "yellow"))
    rows = _rows(report)
    width = max(len(name) for name, _ in rows)
    for name, count in rows:
        output_console().print(plain(f"{name:<{width}}  {count:>7,}"))
    if not report.written:
        notes.print(plain(f"no good reply: {out} was not written", "yellow"))
        raise typer.Exit(1)


def _rows(report: ExportReport) -> list[tuple[str, int]]:
    """Return the counts of an export as table rows; reasons and kinds follow their total."""

    def parts(label: str, counts: dict[str, int]) -> list[tuple[str, int]]:
        ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        return [(f"  {label}{name}", count) for name, count in ranked]

    return [
        ("runs read", report.n_runs),
        *parts("left out: ", report.runs_left_out),
        ("replies in the other runs", report.n_replies),
        *parts("left out: ", report.replies_left_out),
        ("examples written", report.written.total()),
        *parts("", report.written),
    ]


def _where(named: Path | None) -> Path:
    from agentkit.tracing.jsonl import default_trace_directory

    return named or default_trace_directory()
