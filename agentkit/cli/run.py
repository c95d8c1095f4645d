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
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from agentkit.cli.approval import can_ask, decide
from agentkit.cli.options import (
    AgentOptions,
    AllowEnvOption,
    Ask,
    AskOption,
    CostLimitOption,
    FileOption,
    HeaderOption,
    InstructionsOption,
    JournalOption,
    JsonOption,
    MaxStepsOption,
    McpOption,
    ModelOption,
    NoJournalOption,
    NoTraceOption,
    SeedOption,
    TemperatureOption,
    ThinkingOption,
    TraceDirOption,
    journal_file,
    trace_directory,
)
from agentkit.errors import AgentKitError, AgentRunError, UserError
from agentkit.files import Prompt, read_file
from agentkit.messages import text_of

if TYPE_CHECKING:
    from rich.console import Console

    from agentkit.agent import Agent
    from agentkit.messages import ModelMessage
    from agentkit.results import RunResult

EXIT_CODES = {
    "completed": 0,
    "limit_reached": 3,
    "abstained": 4,
    "needs_approval": 5,
    "refused": 6,
    "truncated": 7,
    "filtered": 8,
    "malformed_call": 9,
    "needs_results": 10,
}
"""Exit status by result status; 1 is an error, 2 a wrong command line."""


def run(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task; - reads it from standard input.")],
    model: ModelOption = "local",
    file: FileOption = None,
    mcp: McpOption = None,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
    max_steps: MaxStepsOption = None,
    cost_limit: CostLimitOption = None,
    instructions: InstructionsOption = None,
    temperature: TemperatureOption = None,
    thinking: ThinkingOption = None,
    seed: SeedOption = None,
    trace_dir: TraceDirOption = None,
    no_trace: NoTraceOption = False,
    ask: AskOption = Ask.changes,
    journal: JournalOption = None,
    no_journal: NoJournalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run one task and print the answer.

    Exit status: 0 completed, 1 error, 2 wrong command line, 3 limit reached, 4 the model abstained, 5 a call needs
    an approval that nobody could give here (see `agentkit resume`), 6 refused by a guardrail, 7 truncated at the
    token limit, 8 filtered by the model's server, 9 a call that cannot be parsed, 10 external calls need results.
    """
    trace = trace_directory(trace_dir, no_trace=no_trace)
    kept_in = None if no_journal else journal_file(journal)
    options = AgentOptions(
        model,
        mcp or (),
        max_steps,
        instructions,
        temperature,
        seed,
        trace,
        ask=ask,
        journal=kept_in,
        thinking=thinking,
    ).with_access(header, allow_env)
    options = options.with_cost_limit(cost_limit)
    words = _from_standard_input() if task == "-" else task
    files = [read_file(path) for path in file or ()]
    perform(options, task=[words, *files] if files else words, as_json=as_json)


def _from_standard_input() -> str:
    """Return the text on standard input.

    Raises:
        UserError: There is none.
    """
    text = sys.stdin.read().strip()
    if not text:
        raise UserError(
            "the task is -, and standard input is empty: pipe a text, or name the task as an argument."
        )
    return text


def perform(
    options: AgentOptions, *, task: Prompt | None = None, run_id: str | None = None, as_json: bool
) -> NoReturn:
    """Run a task or resume a run, ask about its calls, print the result and exit with its status."""
    from agentkit.cli.cards import NOTICES, EventPrinter, usage_line
    from agentkit.cli.console import notes_console, output_console, plain, print_wrapped
    from agentkit.cli.downloads import prepare_model

    notes, output = notes_console(), output_console()
    streams = sys.stdout.isatty()
    may_ask = not as_json and can_ask()
    printer = EventPrinter(notes, output if streams else None, asks=may_ask)
    started = time.perf_counter()
    try:
        prepare_model(options.model, notes)
        agent = options.agent((lambda _event: None) if as_json else printer, options.toolsets())
        result = _result(agent, options, task, run_id, notes, may_ask=may_ask)
    except AgentKitError as error:
        if as_json:
            print(json.dumps(_failure(error)))
        raise
    if as_json:
        print(json.dumps(_report(result, options.trace)))
    else:
        answer = result.output_or_none
        if not streams and answer is not None:
            output.print(plain(answer))
        if result.status in NOTICES:
            notes.print(NOTICES[result.status], style="yellow")
        elif answer is None:
            notes.print(f"no answer: {result.status.replace('_', ' ')}", style="yellow")
        usage = usage_line(result.usage, result.confidence, time.perf_counter() - started)
        print_wrapped(notes, usage, "dim")
        if result.pending and options.journal is not None:
            notes.print(
                plain(f"continue with: agentkit resume {result.run_id}{_at('--journal', options.journal)}")
            )
        if options.trace is not None:
            notes.print(
                plain(f"trace: agentkit trace show {result.run_id}{_at('--trace-dir', options.trace)}", "dim")
            )
    raise typer.Exit(EXIT_CODES.get(result.status, 1))


def _result(
    agent: Agent[None, str],
    options: AgentOptions,
    task: Prompt | None,
    run_id: str | None,
    notes: Console,
    *,
    may_ask: bool,
) -> RunResult[str]:
    import anyio

    if run_id is not None:
        result = anyio.run(agent.resume, run_id)
    else:
        prompt = task or ""
        told = prompt if isinstance(prompt, str) else text_of(tuple(prompt))
        result = anyio.run(partial(agent.run, prompt, metadata={**options.to_metadata(), "task": told}))
    while result.pending and may_ask:
        try:
            decisions = decide(result.pending, notes)
        except EOFError:
            break
        result = anyio.run(agent.resume, result.state, decisions)
    return result


def _at(option: str, path: Path) -> str:
    """Return the option that names a file or folder; "" for the default path."""
    from agentkit.tracing.jsonl import default_trace_directory

    usual = journal_file(None) if option == "--journal" else default_trace_directory()
    return "" if path == usual else f" {option} {path}"


def _report(result: RunResult[str], trace: Path | None) -> dict[str, Any]:
    return {
        "run_id": result.run_id,
        "status": result.status,
        "output": result.output_or_none,
        "tool_choice": result.confidence if result.usage.tool_calls else None,
        "usage": result.usage.as_json(),
        "tool_calls": _calls(result.new_messages()),
        "pending": _jsonable(result.pending),
        "trace": str(trace / f"{result.run_id}.jsonl") if trace is not None else None,
    }


def _failure(error: AgentKitError) -> dict[str, Any]:
    report: dict[str, Any] = {"status": "failed", "error": {"type": type(error).__name__, "message": str(error)}}
    if isinstance(error, AgentRunError):
        usage = None if error.usage is None else error.usage.as_json()
        report |= {"usage": usage, "tool_calls": _calls(error.messages)}
    return report


def _calls(messages: Sequence[ModelMessage]) -> list[dict[str, Any]]:
    """Return the calls of a conversation, each with its result."""
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
