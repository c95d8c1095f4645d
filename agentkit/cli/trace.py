"""`agentkit trace`: list, show, count and replay traced runs, and export training examples from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkit.cli.options import JsonOption, TraceDirOption
from modelstack.terminal.plain_help import PlainTyper

if TYPE_CHECKING:
    from agentkit.tracing.export import ExportReport
    from agentkit.tracing.stats import TraceStats
    from modelstack.terminal.tables import Table

MAX_PROMPT_CHARS = 160
"""Characters of a prompt in a list of runs."""

app = PlainTyper(no_args_is_help=True, help="Traces of runs: list, show, stats, replay, export-dataset.")


@app.command("list")
def list_traces(
    trace_dir: TraceDirOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest runs."""
    from agentkit.cli.console import local_time, minute_of, notes_console, one_line, plain, print_tables
    from agentkit.errors import UserError
    from agentkit.tracing.sources import trace_source
    from modelstack.terminal.tables import Column, Table, print_json

    where, notes = _where(trace_dir), notes_console()
    columns = (
        Column("run", "run_id"),
        Column("started", "", minute_of),
        Column("status"),
        Column("steps"),
        Column("calls"),
        Column("model", below=True),
        Column("prompt", "", lambda text: one_line(text, MAX_PROMPT_CHARS), below=True),
    )
    rows: list[tuple[object, ...]] = []
    for run in trace_source(where).summaries(limit):
        if isinstance(run, UserError):
            notes.print(plain(one_line(str(run)), "yellow"))
            continue
        facts = (run.run_id, local_time(run.started), run.status, run.n_steps, run.n_tool_calls)
        rows.append((*facts, run.model_name, run.prompt))
    if as_json:
        print_json(Table(columns, rows).records())
    elif rows:
        print_tables(Table(columns, rows))
    else:
        notes.print(plain(f"no traces in {where}", "dim"))


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A run, or a unique beginning of its id.")],
    trace_dir: TraceDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run: messages, calls with their probabilities, tokens, times, outcome."""
    from agentkit.cli.cards import EventPrinter, usage_line
    from agentkit.cli.console import output_console, print_wrapped
    from agentkit.events import RunFailedEvent, RunFinishedEvent
    from agentkit.tracing.sources import trace_source

    events = trace_source(_where(trace_dir)).events(run_id)
    if as_json:
        from pydantic_core import to_jsonable_python

        from modelstack.terminal.tables import print_json

        print_json([{"time": at, **to_jsonable_python(event)} for at, event in events])
        return
    output = output_console()
    printer = EventPrinter(output, output, show_messages=True)
    ended = False
    for _, event in events:
        printer(event)
        if isinstance(event, RunFinishedEvent):
            usage = usage_line(event.usage, event.confidence, event.duration_s)
            print_wrapped(output, f"{event.status.replace('_', ' ')} · {usage}")
            ended = True
        elif isinstance(event, RunFailedEvent):
            print_wrapped(output, f"failed · {event.error_type}: {event.error}", "red")
            print_wrapped(output, usage_line(event.usage, None))
            ended = True
    if not ended:
        output.print("unfinished: the process ended first, or is still running", style="yellow")


@app.command()
def stats(
    trace_dir: TraceDirOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many runs, newest first.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Show statistics of the newest runs: statuses, tokens, times, and outcomes of each tool's calls."""
    from agentkit.cli.console import notes_console, one_line, plain, print_tables
    from agentkit.errors import UserError
    from agentkit.tracing.sources import trace_source
    from agentkit.tracing.stats import TraceStats
    from modelstack.terminal.tables import print_json

    source, found, notes = trace_source(_where(trace_dir)), TraceStats(), notes_console()
    for run in source.summaries(limit):
        if isinstance(run, UserError):
            notes.print(plain(one_line(str(run)), "yellow"))
        else:
            found.add(event for _, event in source.events(run.run_id))
    tables = _stats_tables(found)
    if as_json:
        print_json({name: table.records() for name, table in tables.items()})
    elif found.models:
        print_tables(*(table for table in tables.values() if table.rows))
    else:
        notes.print(plain(f"no traces in {_where(trace_dir)}", "dim"))


def _stats_tables(found: TraceStats) -> dict[str, Table]:
    """Return the tables by their names in JSON."""
    from decimal import Decimal

    from agentkit.tracing.stats import quantile
    from agentkit.usage import dollars_text
    from modelstack.terminal.tables import Column, Table

    def counted(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())

    def times(seconds: Sequence[float]) -> tuple[float | None, float | None]:
        return (_rounded(quantile(seconds, 0.5)), _rounded(quantile(seconds, 0.95))) if seconds else (None, None)

    number, seconds = "{:,}".format, "{:.3f}".format
    models = [
        (
            name,
            model.n_runs,
            dict(model.statuses.most_common()),
            len(model.step_seconds),
            *times(model.step_seconds),
            model.input_tokens,
            model.cached_tokens,
            model.output_tokens,
            None if model.cost is None else f"{model.cost:f}",
            _rounded(quantile(model.tool_choices, 0.5)) if model.tool_choices else None,
        )
        for name, model in sorted(found.models.items())
    ]
    tools = [
        (
            name,
            tool.n_calls,
            _rounded(tool.outcomes["success"] / tool.n_calls),
            dict(tool.outcomes.most_common()),
            *times(tool.seconds),
        )
        for name, tool in sorted(found.tools.items(), key=lambda item: (-item[1].n_calls, item[0]))
    ]
    verdicts = [(name, stage, verdict, count) for (stage, name, verdict), count in found.verdicts.most_common()]
    median, slowest = Column("median s", "median_s", seconds), Column("95th s", "p95_s", seconds)
    columns_of_models = (
        Column("model"),
        Column("runs", show=number),
        Column("ended", "statuses", counted),
        Column("steps", show=number),
        median,
        slowest,
        Column("tokens in", "input_tokens", number),
        Column("cached", "cached_tokens", number),
        Column("tokens out", "output_tokens", number),
        Column("cost", show=lambda amount: dollars_text(Decimal(amount))),
        Column("tool choice", "median_tool_choice", "{:.2f}".format),
    )
    columns_of_tools = (
        Column("tool"),
        Column("calls", show=number),
        Column("succeeded", "success_share", "{:.0%}".format),
        Column("outcomes", show=counted),
        median,
        slowest,
    )
    columns_of_verdicts = (
        Column("guardrail"),
        Column("stage", show=_spaced),
        Column("verdict", show=_spaced),
        Column("times", show=number),
    )
    return {
        "models": Table(columns_of_models, models, "runs by model"),
        "tools": Table(columns_of_tools, tools, "tool calls"),
        "guardrails": Table(columns_of_verdicts, verdicts, "guardrails that did not allow"),
    }


def _rounded(value: float) -> float:
    return round(value, 4)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


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

    from agentkit.cli.console import notes_console, one_line, output_console, plain, print_wrapped
    from agentkit.models.resolve import resolve_model
    from agentkit.tracing.replay import replay as replayed
    from agentkit.tracing.sources import trace_source
    from modelstack.terminal.progress_bars import activity

    events = [event for _, event in trace_source(_where(trace_dir)).events(run_id)]
    with activity(notes_console(), "asking the model again"):
        n_same, found = anyio.run(replayed, events, resolve_model(model or "local"))
    output = output_console()
    if found is None:
        output.print(plain(f"no difference; replies compared: {n_same}"))
        return
    place = "" if found.token is None else f" at token {found.token}"
    output.print(plain(f"step {found.step}: different {found.what}{place}; equal replies before: {n_same}", "red"))
    print_wrapped(output, f"  trace:  {one_line(found.traced, 500)}", indent=" " * 10)
    print_wrapped(output, f"  replay: {one_line(found.replayed, 500)}", indent=" " * 10)
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
    from agentkit.cli.console import notes_console, one_line, plain, print_tables
    from agentkit.tracing.export import RunChoice, export_examples
    from modelstack.terminal.tables import Column, Table

    choice = RunChoice(tuple(run_ids or ()), model, None if since is None else since.timestamp())
    report = export_examples(_where(trace_dir), out, choice, license_id=license_id, last_only=last_only)
    notes = notes_console()
    for line in report.unreadable:
        notes.print(plain(one_line(line), "yellow"))
    print_tables(Table((Column("counted", show=str), Column("number", show="{:,}".format)), _rows(report)))
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
