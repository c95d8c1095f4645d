"""`agentkit demo`: three tasks offline, with the embedded model and real tool servers in child processes.

It shows what the base model does, not what one would like it to do. What must hold already, and fails the demo if
it does not: every call that the model makes is valid, and every run ends with a result.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentkit.cli.cards import decoding_facts
from agentkit.cli.console import output_console, plain
from agentkit.errors import AgentRunError, ModelRetry
from agentkit.messages import DecodingStats, ModelMessage, ModelResponse

if TYPE_CHECKING:
    from rich.console import Console

    from agentkit.agent import Agent
    from agentkit.tools.definition import Tool
    from agentkit.tools.toolset import Toolset

INTRODUCTION = (
    "Three tasks with the embedded model (SmolLM2, 135M parameters, 4 bits) in this process. It has not been "
    "trained to call tools yet: left free it answers from imagination, so here each task must begin with a call, "
    "and it often picks the wrong tool or answers wrongly; how unsure it is stands beside each call. What holds "
    "already: every call is valid, and every run ends with a result."
)
INSTRUCTIONS = "You help in a bakery. Use the tools: the notes are files, the orders are in a database."
TASKS = (
    ("How many lines does todo.md have?", ("notes",)),
    ("Which tables does the database have?", ("orders",)),
    ("Read prices.csv. What does a croissant cost?", ("notes", "orders")),
)
"""What is asked, and the servers whose tools are offered for it."""

NOTES_TOOLS = ("list_directory", "read_text_file", "search_text")
DATABASE_TOOLS = ("list_tables", "describe_table", "query")

SEED = 7
REQUEST_LIMIT = 4
"""Model requests a task: three to call tools, one to answer."""
MAX_TOKENS = 96
FAST_REQUEST_LIMIT = 2
FAST_MAX_TOKENS = 48

_ENDED_WELL = ("completed", "limit_reached")


@dataclass(slots=True)
class TaskReport:
    """What is summed up of one task."""

    task: str
    status: str = "failed"
    seconds: float = 0.0
    messages: Sequence[ModelMessage] = ()
    confidence: float | None = None
    problems: list[str] = field(default_factory=list[str])

    @property
    def responses(self) -> list[ModelResponse]:
        """The model's replies."""
        return [message for message in self.messages if isinstance(message, ModelResponse)]


def demo(
    fast: Annotated[bool, typer.Option("--fast", help="Fewer steps and shorter replies.")] = False,
    model: Annotated[str, typer.Option("--model", hidden=True)] = "local",
) -> None:
    """Run three tasks offline and show every step. Exit status 1: a call was invalid or a run did not end well."""
    import anyio

    from agentkit.cli.downloads import prepare_model

    output = output_console()
    output.print(plain(INTRODUCTION))
    prepare_model(model, output)
    with tempfile.TemporaryDirectory(prefix="agentkit-demo-") as folder:
        reports = anyio.run(_run_all, Path(folder), model, fast, output)
    _show_summary(reports, output)
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems:
        output.print(plain(f"not as it must be: {problem}", "red"))
    if problems:
        raise typer.Exit(1)


def problems_of(status: str, messages: Sequence[ModelMessage], tools: Mapping[str, Tool]) -> list[str]:
    """Return what must not be: calls that no tool accepts, and a run that did not end well."""
    found = [] if status in _ENDED_WELL else [f"a run ended as {status!r}"]
    for call in (c for m in messages if isinstance(m, ModelResponse) for c in m.tool_calls):
        if call.tool_name not in tools:
            found.append(f"a call of {call.tool_name!r}, which is no tool")
            continue
        try:
            tools[call.tool_name].validate(call.arguments)
        except ModelRetry as error:
            found.append(f"a call of {call.tool_name!r} with invalid arguments: {error}")
    return found


async def _run_all(folder: Path, model_name: str, fast: bool, output: Console) -> list[TaskReport]:
    from agentkit.agent import Agent
    from agentkit.cli.cards import EventPrinter
    from agentkit.limits import UsageLimits
    from agentkit.models.model import ModelSettings
    from agentkit.models.resolve import resolve_model

    model, printer = resolve_model(model_name), EventPrinter(output, output)
    reports: list[TaskReport] = []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(model)
        toolsets = _toolsets(folder)
        for toolset in toolsets.values():
            await stack.enter_async_context(toolset)
        for task, servers in TASKS:
            its_toolsets = [toolsets[name] for name in servers]
            agent = Agent(
                model,
                toolsets=its_toolsets,
                instructions=INSTRUCTIONS,
                limits=UsageLimits(request_limit=FAST_REQUEST_LIMIT if fast else REQUEST_LIMIT),
                settings=ModelSettings(
                    temperature=0.0,
                    seed=SEED,
                    max_tokens=FAST_MAX_TOKENS if fast else MAX_TOKENS,
                    tool_choice="required",
                ),
                parallel_tool_calls=False,
                on_event=printer,
            )
            tools = await _tools_of(its_toolsets)
            output.print(plain(f"\n▌ {task}", "bold"))
            output.print(plain(f"  tools: {', '.join(tools)}", "dim"))
            reports.append(await _run_task(agent, task, tools))
            printer.end_line()
    return reports


def _toolsets(folder: Path) -> dict[str, Toolset]:
    """Write what the tools work on, and describe the servers, which start when they are entered."""
    from agentkit.cli.demo_data import write_database, write_notes
    from agentkit.mcp.toolset import MCPToolset

    notes, database = folder / "notes", folder / "orders.db"
    notes.mkdir()
    write_notes(notes)
    write_database(database)
    serve = (sys.executable, "-m")
    return {
        "notes": MCPToolset.stdio(*serve, "mcp_servers.filesystem", notes, id="notes", allow=NOTES_TOOLS),
        "orders": MCPToolset.stdio(*serve, "mcp_servers.sqlite", database, id="orders", allow=DATABASE_TOOLS),
    }


async def _tools_of(toolsets: Sequence[Toolset]) -> dict[str, Tool]:
    from agentkit.context import RunContext

    listed = [await toolset.list_tools(RunContext(deps=None)) for toolset in toolsets]
    return {tool.name: tool for tools in listed for tool in tools}


async def _run_task(agent: Agent[Any, str], task: str, tools: Mapping[str, Tool]) -> TaskReport:
    report = TaskReport(task)
    started = time.perf_counter()
    try:
        result = await agent.run(task)
    except AgentRunError as error:
        report.messages = error.messages
        report.problems.append(f"{type(error).__name__}: {error}")
    else:
        report.status, report.messages, report.confidence = result.status, result.messages, result.confidence
    report.seconds = time.perf_counter() - started
    report.problems += problems_of(report.status, report.messages, tools)
    return report


def _show_summary(reports: Sequence[TaskReport], output: Console) -> None:
    output.print(plain("\nTokens and times", "bold"))
    for report in reports:
        decoding = [response.decoding for response in report.responses if response.decoding is not None]
        n_calls = sum(len(response.tool_calls) for response in report.responses)
        total = DecodingStats(
            reused_tokens=sum(stats.reused_tokens for stats in decoding),
            prefilled_tokens=sum(stats.prefilled_tokens for stats in decoding),
            sampled_tokens=sum(stats.sampled_tokens for stats in decoding),
            forced_tokens=sum(stats.forced_tokens for stats in decoding),
        )
        outcome = f"{report.status.replace('_', ' ')} · {len(report.responses)} steps · {n_calls} calls"
        if not report.problems:
            outcome += ", all valid"
        if report.confidence is not None:
            outcome += f" · least p {report.confidence:.2f}"
        output.print(plain(report.task))
        output.print(plain(f"  {outcome} · {report.seconds:.1f} s"))
        output.print(plain(f"  {decoding_facts(total)}", "dim"))
