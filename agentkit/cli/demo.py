"""`agentkit demo`: three tasks offline, with the embedded model and real tool servers in child processes.

What must hold, and fails the demo if it does not: every call that the model makes is valid, every run ends with a
result, and each task is solved, by the answer's words and by what is on the disk afterwards.
"""

from __future__ import annotations

import re
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
    "Three tasks with the embedded model (SmolLM2, 135M parameters, 4 bits, with the adapter for tool calls that "
    "this package carries) in this process: no key, no network. It is small, and wrong about every second time on "
    "harder requests; how unsure it is stands beside each call. Every call is valid by construction."
)
INSTRUCTIONS = "You help in a bakery. Use the tools: the notes are files, the orders are in a database."


@dataclass(frozen=True, slots=True)
class DemoTask:
    """What is asked, and how one sees that it was done."""

    text: str
    server: str
    """Whose tools are offered for it."""
    answer: str
    """Regular expression that a right answer fits somewhere."""
    folder: str | None = None
    """Is there afterwards."""


TASKS = (
    DemoTask("How many lines does todo.md have?", "notes", r"\b9\b"),
    DemoTask("What columns does the table customers have?", "orders", r"\bid\b.*\bname\b"),
    DemoTask("Create a folder called archive.", "notes", "archive", folder="notes/archive"),
)

SEED = 7
REQUEST_LIMIT = 4
"""Model requests a task: three to call tools, one to answer."""
MAX_TOKENS = 96

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
    model: Annotated[str, typer.Option("--model", hidden=True)] = "local",
) -> None:
    """Run three tasks offline and show every step. Exit status 1: one is not solved, or a call was invalid."""
    import anyio

    from agentkit.cli.downloads import prepare_model

    output = output_console()
    output.print(plain(INTRODUCTION))
    prepare_model(model, output)
    with tempfile.TemporaryDirectory(prefix="agentkit-demo-") as folder:
        reports = anyio.run(_run_all, Path(folder), model, output)
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


def unsolved(task: DemoTask, answer: str, folder: Path) -> str:
    """Return what is missing of a task, nothing where it is solved."""
    if task.folder is not None and not (folder / task.folder).is_dir():
        return f"there is no folder {Path(task.folder).name!r}"
    return "" if re.search(task.answer, answer, re.DOTALL) else f"the answer is {answer[:80]!r}"


async def _run_all(folder: Path, model_name: str, output: Console) -> list[TaskReport]:
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
        for task in TASKS:
            toolset = toolsets[task.server]
            agent = Agent(
                model,
                toolsets=[toolset],
                instructions=INSTRUCTIONS,
                limits=UsageLimits(request_limit=REQUEST_LIMIT),
                settings=ModelSettings(
                    temperature=0.0,
                    seed=SEED,
                    max_tokens=MAX_TOKENS,
                ),
                parallel_tool_calls=False,
                on_event=printer,
            )
            tools = await _tools_of(toolset)
            output.print(plain(f"\n▌ {task.text}", "bold"))
            output.print(plain(f"  tools: {', '.join(tools)}", "dim"))
            reports.append(await _run_task(agent, task, tools, folder))
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
        "notes": MCPToolset.stdio(*serve, "mcp_servers.filesystem", notes, "--write", id="notes", pins=None),
        "orders": MCPToolset.stdio(*serve, "mcp_servers.sqlite", database, id="orders", pins=None),
    }


async def _tools_of(toolset: Toolset) -> dict[str, Tool]:
    from agentkit.context import RunContext

    return {tool.name: tool for tool in await toolset.list_tools(RunContext(deps=None))}


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
        if fault := unsolved(task, str(result.output or ""), folder):
            report.problems.append(f"{task.text!r} is not solved: {fault}")
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
            restored_tokens=sum(stats.restored_tokens for stats in decoding),
            prefilled_tokens=sum(stats.prefilled_tokens for stats in decoding),
            sampled_tokens=sum(stats.sampled_tokens for stats in decoding),
            forced_tokens=sum(stats.forced_tokens for stats in decoding),
        )
        ended = "solved" if not report.problems else report.status.replace("_", " ")
        outcome = f"{ended} · {len(report.responses)} steps · {n_calls} calls"
        if not report.problems:
            outcome += ", all valid"
        if report.confidence is not None:
            outcome += f" · least p {report.confidence:.2f}"
        output.print(plain(report.task))
        output.print(plain(f"  {outcome} · {report.seconds:.1f} s"))
        output.print(plain(f"  {decoding_facts(total)}", "dim"))
