"""`agentkit demo`: four tasks offline, with the embedded model and real tool servers in child processes.

The demo fails unless every call of the model is valid, every run ends with a result, and each task is solved: the
facts of the answer and the files decide (`demo_tasks`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentkit.cli.cards import decoding_facts
from agentkit.cli.console import count_of, output_console, plain, print_wrapped
from agentkit.cli.demo_tasks import TASKS, DemoTask, unsolved
from agentkit.errors import AgentRunError, ModelRetry
from agentkit.messages import DecodingStats, ModelMessage, ModelResponse

if TYPE_CHECKING:
    from rich.console import Console

    from agentkit.agent import Agent
    from agentkit.events import AgentEvent
    from agentkit.models.catalog.store import ModelFileError
    from agentkit.tools.tool import Tool
    from agentkit.tools.toolset import Toolset

INTRODUCTION = (
    "Four tasks with a model in this process and three tool servers beside it: no key, no network. The model "
    "decides which tool to call; every call is valid by construction, and its probability stands beside it."
)
FIRST_HOUR_RIGHT = {"smollm2-135m": 6, "qwen2.5-coder-0.5b": 40, "qwen2.5-coder-1.5b": 51}
"""Requests of `agentkit eval first-hour`, of 60, that a catalog model gets right with its shipped adapter."""
FIRST_HOUR_GOOD = 48
"""Requests that the default model should get right: four of five."""
INSTRUCTIONS = "You help in a bakery. Use the tools: the notes are files, the orders are in a database."

SEED = 7
REQUEST_LIMIT = 8
"""Model requests per task: two to call tools, one to answer, the others to correct mistakes."""
MAX_TOKENS = 128
MODEL_BUDGET_S = 30.0
"""Model seconds expected on two idle cores; exceeding them prints a notice and is not a failure."""

_ENDED_WELL = ("completed", "truncated", "limit_reached")


@dataclass(slots=True)
class TaskReport:
    """Outcome of one task."""

    task: str
    status: str = "failed"
    seconds: float = 0.0
    model_seconds: float = 0.0
    """Seconds in which the model computed, a part of `seconds`."""
    messages: Sequence[ModelMessage] = ()
    confidence: float | None = None
    problems: list[str] = field(default_factory=list[str])

    @property
    def responses(self) -> list[ModelResponse]:
        """The model's replies."""
        return [message for message in self.messages if isinstance(message, ModelResponse)]


def demo(
    model: Annotated[str, typer.Option("--model", hidden=True)] = "local:small",
) -> None:
    """Run four tasks offline and show every step. Exit status 1: one is not solved, or a call was invalid.

    The small profile does them: half the download and half the time of the default profile.
    """
    import anyio

    started = time.perf_counter()
    output = output_console()
    output.soft_wrap = not output.is_terminal  # wrapped between words: here sentences are read, not copied
    print_wrapped(output, INTRODUCTION)
    name, failure = usable_model(model, output)
    if failure is not None:
        print_wrapped(output, f"{model} cannot be fetched, so {name} does the tasks: {failure}", "yellow")
    print_wrapped(output, described(name))
    with tempfile.TemporaryDirectory(prefix="agentkit-demo-") as folder:
        reports = anyio.run(_run_all, Path(folder), name, output)
    _show_summary(reports, time.perf_counter() - started, output)
    if any(report.problems for report in reports):
        raise typer.Exit(1)


def usable_model(name: str, output: Console) -> tuple[str, ModelFileError | None]:
    """Fetch a model's file; return the model to use, and the error if it is the fallback.

    Raises:
        ModelFileError: the file cannot be fetched, nor that of the fallback profile.
        UserError: the name is not understood.
    """
    from agentkit.cli.downloads import pull_shown
    from agentkit.models.resolve import profile_or_fallback

    return profile_or_fallback(name, lambda spec: pull_shown(spec, output))


def described(name: str) -> str:
    """Return a description of the model and of its measured accuracy."""
    from agentkit.models.catalog.entries import CATALOG
    from agentkit.models.resolve import split_local

    local = split_local(name)
    entry = CATALOG.get(local[0]) if local is not None else None
    if entry is None:
        return f"Model: {name}."
    about = f"Model: {entry.id} ({entry.description}; {entry.size / 1e6:.0f} MB)."
    n_right = FIRST_HOUR_RIGHT.get(entry.id)
    if n_right is None:
        return f"{about} `agentkit eval first-hour` measures how far it can be trusted."
    warning = ": expect wrong answers" if n_right < FIRST_HOUR_GOOD else ""
    return f"{about} It gets {n_right} of 60 requests of a newcomer right (`agentkit eval first-hour`){warning}."


def problems_of(status: str, messages: Sequence[ModelMessage], tools: Mapping[str, Tool]) -> list[str]:
    """Return the faults of a run: calls that no tool accepts, and a status outside `_ENDED_WELL`."""
    found = [] if status in _ENDED_WELL else [f"the run ended as {status!r}"]
    for call in (c for m in messages if isinstance(m, ModelResponse) for c in m.tool_calls):
        if call.tool_name not in tools:
            found.append(f"a call of {call.tool_name!r}, which is no tool")
            continue
        try:
            tools[call.tool_name].validate(call.arguments)
        except ModelRetry as error:
            found.append(f"a call of {call.tool_name!r} with invalid arguments: {error}")
    return found


async def _run_all(folder: Path, model_name: str, output: Console) -> list[TaskReport]:
    from agentkit.agent import Agent
    from agentkit.cli.cards import EventPrinter
    from agentkit.limits import UsageLimits
    from agentkit.models.base import ModelSettings
    from agentkit.models.resolve import resolve_model

    model, printer, clock = resolve_model(model_name), EventPrinter(output, output, brief=True), _ModelClock()

    def hear(event: AgentEvent) -> None:
        clock(event)
        printer(event)

    reports: list[TaskReport] = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(model)
        toolsets = _toolsets(folder)
        for toolset in toolsets:
            await stack.enter_async_context(toolset)
        tools = await _tools_of(toolsets)
        print_wrapped(output, f"Tools: {', '.join(tools)}", "dim")
        for number, task in enumerate(TASKS, start=1):
            agent = Agent(
                model,
                toolsets=toolsets,
                instructions=INSTRUCTIONS,
                limits=UsageLimits(request_limit=REQUEST_LIMIT),
                settings=ModelSettings(
                    temperature=0.0,
                    seed=SEED,
                    max_tokens=MAX_TOKENS,
                ),
                parallel_tool_calls=False,
                on_event=hear,
            )
            output.print()
            print_wrapped(output, f"▌ {number} of {len(TASKS)}  {task.text}", "bold", indent="  ")
            clock.seconds = 0.0
            report = await _run_task(agent, task, tools, folder)
            report.model_seconds = clock.seconds
            printer.end_line()
            _show_verdict(report, output)
            reports.append(report)
    return reports


@dataclass(slots=True)
class _ModelClock:
    """A sink that adds up the seconds of the model's replies."""

    seconds: float = 0.0

    def __call__(self, event: AgentEvent) -> None:
        from agentkit.events import ModelResponseEvent

        if isinstance(event, ModelResponseEvent):
            self.seconds += event.duration_s


def _toolsets(folder: Path) -> list[Toolset]:
    """Write the demo's files and return its servers, which start when they are entered."""
    from agentkit.cli.demo_data import write_database, write_notes
    from agentkit.mcp.toolset import MCPToolset

    notes, database = folder / "notes", folder / "orders.db"
    notes.mkdir()
    write_notes(notes)
    write_database(database)
    served: Mapping[str, tuple[str | Path, ...]] = {
        "filesystem": (notes, "--write"),
        "sqlite": (database,),
        "time": (),
    }
    # Trusted: the demo wrote what they read, so writing after reading needs no approval.
    return [
        MCPToolset.stdio("agentkit-mcp", name, *args, id=name, pins=None, trust="trusted")
        for name, args in served.items()
    ]


async def _tools_of(toolsets: Sequence[Toolset]) -> dict[str, Tool]:
    from agentkit.context import RunContext

    return {tool.name: tool for toolset in toolsets for tool in await toolset.list_tools(RunContext(deps=None))}


async def _run_task(agent: Agent[Any, str], task: DemoTask, tools: Mapping[str, Tool], folder: Path) -> TaskReport:
    report = TaskReport(task.text)
    started = time.perf_counter()
    try:
        result = await agent.run(task.text)
    except AgentRunError as error:
        report.messages = error.messages
        report.problems.append(f"{type(error).__name__}: {error}")
    else:
        report.status, report.messages, report.confidence = result.status, result.messages, result.confidence
        if fault := unsolved(task, result.output_or_none or "", folder / "notes"):
            report.problems.append(fault)
    report.seconds = time.perf_counter() - started
    report.problems += problems_of(report.status, report.messages, tools)
    return report


def _show_verdict(report: TaskReport, output: Console) -> None:
    n_calls = sum(len(response.tool_calls) for response in report.responses)
    facts = f"{count_of(len(report.responses), 'step')} · {count_of(n_calls, 'call')}"
    if report.confidence is not None and n_calls:
        facts += f" · tool choice {report.confidence:.2f}"
    facts += f" · {report.model_seconds:.1f} s of the model"
    if report.problems:
        output.print(plain(f"✗ not solved · {facts}", "red"))
        for problem in report.problems:
            print_wrapped(output, f"  {problem}", "red", indent="  ")
    else:
        output.print(plain(f"✓ solved · {facts}", "green"))


def _show_summary(reports: Sequence[TaskReport], total_s: float, output: Console) -> None:
    decoding = [r.decoding for report in reports for r in report.responses if r.decoding is not None]
    tokens = DecodingStats(
        reused_tokens=sum(stats.reused_tokens for stats in decoding),
        restored_tokens=sum(stats.restored_tokens for stats in decoding),
        prefilled_tokens=sum(stats.prefilled_tokens for stats in decoding),
        sampled_tokens=sum(stats.sampled_tokens for stats in decoding),
        forced_tokens=sum(stats.forced_tokens for stats in decoding),
    )
    n_solved = sum(not report.problems for report in reports)
    model_s = sum(report.model_seconds for report in reports)
    output.print(
        plain(f"\n{n_solved} of {len(reports)} solved", "bold green" if n_solved == len(reports) else "bold red")
    )
    output.print(plain(f"the model worked for {model_s:.1f} s; {total_s:.1f} s in all"))
    print_wrapped(output, decoding_facts(tokens), "dim")
    if model_s > MODEL_BUDGET_S:
        output.print(plain(f"that is more than the {MODEL_BUDGET_S:.0f} s that two idle cores need", "yellow"))
