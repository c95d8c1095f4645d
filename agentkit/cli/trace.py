"""`agentkit trace`: the runs that were kept, and one of them step by step."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from agentkit.cli.options import TraceDirOption

MAX_LINE_CHARS = 160

app = typer.Typer(no_args_is_help=True, help="Runs that were kept: list, show.")


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


def _where(named: Path | None) -> Path:
    from agentkit.tracing.jsonl import default_trace_directory

    return named or default_trace_directory()
