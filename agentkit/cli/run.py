"""`agentkit run`: one task from the command line.

The answer goes to standard output and everything else to standard error, so that `agentkit run ... > answer.txt`
holds the answer alone. On a terminal the answer is streamed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from agentkit.cli.options import (
    AgentOptions,
    InstructionsOption,
    MaxStepsOption,
    McpOption,
    ModelOption,
    NoTraceOption,
    SeedOption,
    TemperatureOption,
    TraceDirOption,
    trace_directory,
)
from agentkit.errors import AgentKitError, AgentRunError

if TYPE_CHECKING:
    from agentkit.messages import ModelMessage
    from agentkit.results import RunResult

EXIT_CODES = {"completed": 0, "limit_reached": 3, "abstained": 4}
"""By the result's status; 1 is an error, 2 a wrong command line."""


def run(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to do.")],
    model: ModelOption = "local",
    mcp: McpOption = None,
    max_steps: MaxStepsOption = None,
    instructions: InstructionsOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = None,
    trace_dir: TraceDirOption = None,
    no_trace: NoTraceOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
) -> None:
    """Do one task and print the answer.

    Exit status: 0 completed, 1 error, 3 a limit was reached, 4 the model abstained.
    """
    import anyio

    from agentkit.cli.cards import EventPrinter, usage_line
    from agentkit.cli.console import notes_console, output_console, plain
    from agentkit.cli.downloads import prepare_model

    notes, output = notes_console(), output_console()
    trace = trace_directory(trace_dir, no_trace=no_trace)
    options = AgentOptions(model, mcp or (), max_steps, instructions, temperature, seed, trace)
    streams = sys.stdout.isatty()
    printer = EventPrinter(notes, output if streams else None)
    started = time.perf_counter()
    try:
        prepare_model(model, notes)
        agent = options.agent((lambda _event: None) if as_json else printer, options.toolsets())
        result = anyio.run(partial(agent.run, task))
    except AgentKitError as error:
        if as_json:
            print(json.dumps(_failure(error)))
        raise
    if as_json:
        print(json.dumps(_report(result, trace)))
    else:
        answer = cast("str | None", result.output)
        if not streams and answer is not None:
            output.print(plain(answer))
        if answer is None:
            notes.print(f"no answer: {result.status.replace('_', ' ')}", style="yellow")
        notes.print(usage_line(result.usage, result.confidence, time.perf_counter() - started), style="dim")
        if trace is not None:
            notes.print(plain(f"trace: agentkit trace show {result.run_id}{_where(trace_dir)}", "dim"))
    raise typer.Exit(EXIT_CODES.get(result.status, 1))


def _where(trace_dir: Path | None) -> str:
    return "" if trace_dir is None else f" --trace-dir {trace_dir}"


def _report(result: RunResult[str], trace: Path | None) -> dict[str, Any]:
    return {
        "run_id": result.run_id,
        "status": result.status,
        "output": result.output,
        "confidence": result.confidence,
        "usage": _jsonable(result.usage),
        "tool_calls": _calls(result.new_messages()),
        "trace": str(trace / f"{result.run_id}.jsonl") if trace is not None else None,
    }


def _failure(error: AgentKitError) -> dict[str, Any]:
    report: dict[str, Any] = {"status": "failed", "error": {"type": type(error).__name__, "message": str(error)}}
    if isinstance(error, AgentRunError):
        report |= {"usage": _jsonable(error.usage), "tool_calls": _calls(error.messages)}
    return report


def _calls(messages: Sequence[ModelMessage]) -> list[dict[str, Any]]:
    """Return the calls of a conversation, each with what came back."""
    from agentkit.messages import ModelResponse, RetryPromptPart, ToolReturnPart

    answers = {
        part.tool_call_id: part
        for message in messages
        for part in message.parts
        if isinstance(part, (ToolReturnPart, RetryPromptPart))
    }
    calls: list[dict[str, Any]] = []
    for call in (c for m in messages if isinstance(m, ModelResponse) for c in m.tool_calls):
        answer = answers.get(call.tool_call_id)
        is_error = isinstance(answer, RetryPromptPart) or (answer is not None and answer.is_error)
        calls.append(
            {
                "tool_name": call.tool_name,
                "arguments": call.arguments,
                "probability": call.probability,
                "result": answer.content if answer is not None else None,
                "is_error": is_error,
            }
        )
    return calls


def _jsonable(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)
